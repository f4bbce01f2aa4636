"""The faults of a manifest of images: copies across splits, damaged files, strange boxes."""
