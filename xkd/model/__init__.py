"""The model of the paper: encoders, autoencoders, refinement, projectors and losses."""
