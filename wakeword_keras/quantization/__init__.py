"""From a float model to one that computes as the int8 kernels do."""
