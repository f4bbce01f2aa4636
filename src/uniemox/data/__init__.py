"""Images, tables of images, and the readers of published data sets."""
