"""Datasets as downloaded, in their official layouts."""
