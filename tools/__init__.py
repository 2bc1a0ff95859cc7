"""Entry points: flags, a config, one library call."""
