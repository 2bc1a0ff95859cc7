"""The stages in order, in a run directory."""
