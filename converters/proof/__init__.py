"""Evidence that a file computes what its source computes, and where it first does not."""
