"""A training run: steps, strategies, checkpoints, health, and logging."""
