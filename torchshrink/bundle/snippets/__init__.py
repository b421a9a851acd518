"""How a bundled file is run from other languages: texts with the names, shapes and scales left open."""
