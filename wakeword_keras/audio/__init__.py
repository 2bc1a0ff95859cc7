"""Audio in, features out: files, the device's front end, augmentation, synthetic noise."""
