"""A float ONNX graph through TensorFlow: what is done before, and undone after."""
