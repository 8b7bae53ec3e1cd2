"""Evaluation of a run's encoders: features, protocols, scores (supplement A.5, A.6)."""
