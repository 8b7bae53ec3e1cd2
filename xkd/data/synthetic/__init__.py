"""The embedded dataset and miniatures of the official ones."""
