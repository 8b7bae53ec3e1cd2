"""Windows of prepared clips for training and evaluation."""
