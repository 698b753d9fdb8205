"""The experiment: synthetic sets, and classifiers trained with and without synthetic patches."""
