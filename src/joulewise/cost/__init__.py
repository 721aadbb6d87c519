"""Static counts of a model graph."""
