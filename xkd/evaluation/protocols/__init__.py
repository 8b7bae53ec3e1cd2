"""Evaluation protocols: features or clips in, predictions out."""
