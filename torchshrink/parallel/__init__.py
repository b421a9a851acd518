"""One training by several processes, the same as by one."""
