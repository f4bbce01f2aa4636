"""Where people are in an image: boxes, their choice, and the detectors that find them."""
