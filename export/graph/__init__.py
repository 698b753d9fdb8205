"""What is inside of a SavedModel: the generator's graph, its checks of inputs, its PNGs."""
