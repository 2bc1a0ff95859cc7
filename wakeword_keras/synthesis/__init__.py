"""A corpus for a phrase without recordings: what is said, and who says it."""
