"""Exporters: a trained student to ONNX, an ONNX file to a TensorRT engine, each proven against PyTorch where it runs."""
