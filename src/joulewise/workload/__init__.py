"""The job: a model, its data, their splits, and how answers are scored."""
