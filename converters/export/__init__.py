"""PyTorch to ONNX, and to the form that ONNX Runtime computes in integers."""
