"""Model folders that others can read, and the private state of a run."""
