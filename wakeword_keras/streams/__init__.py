"""Long audio: windows over it, a detector on it, scores of a whole split."""
