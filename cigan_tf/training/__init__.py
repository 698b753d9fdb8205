"""A training run: its steps, devices, checkpoints, health and logs."""
