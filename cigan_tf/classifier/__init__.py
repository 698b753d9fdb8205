"""The experiment: synthetic sets, classifiers trained with and without them, their comparison."""
