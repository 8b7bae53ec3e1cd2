"""The collapse watch: what a run tells and the verdict on it."""
