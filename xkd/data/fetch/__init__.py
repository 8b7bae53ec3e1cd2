"""Datasets from a DVC data registry."""
