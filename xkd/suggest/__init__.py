"""Settings of a pretraining run that suit a dataset and a machine."""
