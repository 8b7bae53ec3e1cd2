"""Pretraining: the loop, its checkpoints, its processes and how they are launched."""
