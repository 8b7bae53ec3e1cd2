"""Measurements behind docs/: run each script from a checkout, ``python benchmarks/NAME.py --help``."""
