"""Runtimes of the optimisers that joulewise is compared with; each in its own environment."""
