"""The final test: whether a claim holds on data that the search never saw."""
