"""A VGG cut in two: its weights, the engines that run it, and the folder that keeps it."""
