"""The samples and batches that a model reads: views of images, their augmentation, and loaders of them."""
