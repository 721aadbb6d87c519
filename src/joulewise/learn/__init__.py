"""Models that can learn: ONNX graphs that torch runs, differentiates, changes and writes back."""
