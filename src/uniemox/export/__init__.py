"""Classifiers in formats that run without torch."""
