"""The demonstration: the whole path from images to a report, on embedded data, without a network."""
