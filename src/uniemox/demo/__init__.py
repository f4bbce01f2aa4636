"""The demonstration: the whole path from pictures to a report, on embedded data, without a network."""
