"""How good a run's encoders are: frozen features, a probe, a score (supplement A.5)."""
