"""Int8 without training or labels, better step by step."""
