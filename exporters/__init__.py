"""Exporters: a trained student to ONNX, ONNX to a TensorRT engine, each proven against PyTorch where it runs."""
