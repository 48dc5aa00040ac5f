"""Scores of generated words against references: one file a metric, the tokeniser they share in its own."""
