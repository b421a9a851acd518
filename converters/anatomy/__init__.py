"""A file taken apart: what computes in int8 and in float, what that costs, and why."""
