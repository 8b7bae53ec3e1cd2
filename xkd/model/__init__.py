"""The paper, readable beside it: encoders, autoencoders, refinement, losses, schedules."""
