"""One module per way to use an optimiser, as its documentation has it.

Each has `RUNTIME`, which opens what it makes, and `optimize`, which makes it and returns its path.
Nothing here is tuned by us: what a step of the documentation leaves open is left at its default.
"""
