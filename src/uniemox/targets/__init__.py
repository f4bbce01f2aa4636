"""What a classifier answers with: its labels, losses, thresholds, calibration and scores."""
