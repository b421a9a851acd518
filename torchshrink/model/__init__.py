"""What a model is: the built-in U-Net, what any model takes, gives, computes and holds, its graph as JSON."""
