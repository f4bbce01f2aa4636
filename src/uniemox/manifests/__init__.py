"""The table of a data set, and how it is split, merged, sharded and counted."""
