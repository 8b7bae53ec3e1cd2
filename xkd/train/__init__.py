"""Pretraining: the loop, its steps, schedules, checkpoints and run record."""
