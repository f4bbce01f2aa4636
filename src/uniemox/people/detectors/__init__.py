"""Detectors of people behind one small interface: torchvision's, and any in ONNX."""
