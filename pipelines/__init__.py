"""Graphs of the components; what a task does is in `components`, how it does it in `xkd`."""
