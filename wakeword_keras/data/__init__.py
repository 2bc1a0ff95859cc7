"""Recordings become a corpus of clips, split by speaker, and shards on disk."""
