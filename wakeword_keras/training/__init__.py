"""The loss, the batches and the one training loop."""
