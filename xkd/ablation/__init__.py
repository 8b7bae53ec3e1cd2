"""The supplement's tables and figures of ablations: their runs, evaluations and results."""
