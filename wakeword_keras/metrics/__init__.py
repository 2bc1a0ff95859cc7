"""What is measured of scores, whatever they come from; NumPy only."""
