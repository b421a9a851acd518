"""Where candidates are trained: here, or on a cluster."""
