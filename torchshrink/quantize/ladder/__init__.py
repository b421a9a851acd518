"""Int8 without training or labels, better step by step: `climb` goes up, every other module is one step."""
