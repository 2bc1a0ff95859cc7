"""Entry points: flags, a config, one library call."""

import flags  # noqa: F401  (first: it starts TensorFlow without its chatter)
