"""The reader's own images: folders, detector, ONNX, explorer."""
