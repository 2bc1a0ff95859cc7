"""TFLite files translated to ONNX."""
