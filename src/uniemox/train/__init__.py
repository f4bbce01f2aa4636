"""Training: tasks, one engine for all of them, and the runs that assemble them."""
