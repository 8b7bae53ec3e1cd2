"""Monitoring of a run: collapse detection, Prometheus metrics, and ``xkd watch``."""
