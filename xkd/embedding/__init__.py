"""Embeddings of media files: made, stored and searched."""
