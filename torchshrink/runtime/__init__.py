"""A model file in its real runtime, in a process of its own that imports nothing else."""
