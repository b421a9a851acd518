"""Learned ranges onto a float TFLite file, every scale as it was."""
