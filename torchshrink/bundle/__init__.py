"""A shipped file as production takes it: a folder with a runner, its proof, an image and a card; without torch."""
