"""Flags of the command line; importing this package starts TensorFlow without its chatter.

TensorFlow writes a page about processors and missing GPUs straight to file descriptor 2 when it is
imported and when it first lists devices. A person at a terminal would look for our line in it.
"""

from wakeword_keras.quiet import quiet

with quiet():
    import tensorflow as tf

    tf.config.list_physical_devices()
tf.get_logger().setLevel("ERROR")
