"""Where and how a run computes: devices and precision, several processes, signals and heartbeats."""
