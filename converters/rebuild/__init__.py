"""From a float ONNX file of any exporter to a PyTorch module that computes the same; see `from_onnx`."""
