"""Give joulewise a trained model and its data; get back the version that needs the fewest joules."""

__version__ = "0.1.0"
