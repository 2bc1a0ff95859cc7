"""From a float model to a quantization-aware one: scheme, calibration, fine-tuning."""
