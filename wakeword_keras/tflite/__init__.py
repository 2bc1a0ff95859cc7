"""TFLite files: converted, read, run."""
