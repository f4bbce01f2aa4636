"""Files that anybody may have made, and files that others rely on: images, weights, locks, whole writes."""
