"""Pictures, tables of pictures, and the readers of published data sets."""
