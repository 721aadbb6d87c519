"""A trained network and labelled images that ship with joulewise; see scripts/make_demo.py."""

from pathlib import Path

__all__ = ["DATA", "MODEL"]

MODEL = Path(__file__).parent / "fashion_mnist.onnx"
DATA = Path(__file__).parent / "fashion_mnist.npz"
