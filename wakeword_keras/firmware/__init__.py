"""What the firmware team receives."""
