"""A training run: steps, strategies, checkpoints, health, and what is logged."""
