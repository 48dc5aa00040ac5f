"""Evaluation: metrics, and what a model says of pictures it never saw."""
