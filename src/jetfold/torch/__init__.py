"""PyTorch: jets on `__torch_function__`."""
