"""Evaluation protocols (supplement A.5, A.6)."""
