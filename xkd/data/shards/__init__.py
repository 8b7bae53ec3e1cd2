"""Prepared datasets: tar shards with a manifest."""
