"""Datasets by name: generated, or from a DVC data registry."""
