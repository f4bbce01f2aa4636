"""What computes a classifier's answer: torch, or onnxruntime without torch."""
