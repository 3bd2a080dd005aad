"""onnx: folders that onnxruntime-genai loads."""
