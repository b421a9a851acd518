"""A shipped file over images and signals of any size, tile by tile, without torch."""
