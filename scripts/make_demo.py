"""Make the demo: train a residual network on Fashion-MNIST and write what joulewise ships.

Writes into ``src/joulewise/demo/``: ``fashion_mnist.onnx`` (pixels 0..255 in, ten logits out),
``fashion_mnist.npz`` (16,000 labelled images the network never saw: the 10,000 test images and
6,000 held back from training) and ``training.json`` (how it was made, and what it scores).

The pixels' scale and offset are folded into the graph, so the images ship as plain uint8 and
the whole demo is one ``joulewise optimize MODEL --data DATA`` line.

Needs Debian's ``dataset-fashion-mnist`` (MIT licence), torch, onnx and onnxscript::

    apt-get install dataset-fashion-mnist
    pip install torch==2.13.0 onnx onnxscript
    python scripts/make_demo.py

Takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

CLASSES = [
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
]  # fmt: skip
PIXEL_MEAN, PIXEL_STD = 72.94, 90.02  # of the 60,000 training images, in units of 0..255
HELD_BACK_ITEMS = 6000
OUT = Path(__file__).parents[1] / "src" / "joulewise" / "demo"


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut: [b, i, h, w] -> [b, o, h/s, w/s]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class FashionNet(nn.Module):
    """A residual network: float pixels 0..255 [b, 1, 28, 28] -> logits [b, 10]."""

    def __init__(self, stem: int = 16, widths: tuple[int, ...] = (48, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(1, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(),
        ]  # fmt: skip
        previous = stem
        for width in widths:
            layers += [Block(previous, width, 2), Block(width, width, 1)]
            previous = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(previous, len(CLASSES))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = (pixels - PIXEL_MEAN) / PIXEL_STD
        return self.head(self.body(x).mean(dim=(2, 3)))


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file: images [n, 28, 28] or labels [n], uint8."""
    raw = gzip.decompress(path.read_bytes())
    dims = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(dims)).reshape(dims)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to 2 pixels, mirror half of the images, and blank one 8x8 square in half."""
    n = len(x)
    padded = functional.pad(x, (2, 2, 2, 2))
    dy, dx = torch.randint(0, 5, (2, n), generator=generator)
    rows = dy[:, None] + torch.arange(28)
    cols = dx[:, None] + torch.arange(28)
    flip = torch.rand(n, generator=generator) < 0.5
    cols = torch.where(flip[:, None], cols.flip(1), cols)
    y = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], cols[:, None, :]]
    top, left = torch.randint(-4, 25, (2, n), generator=generator)
    grid = torch.arange(28)
    hole = ((grid >= top[:, None]) & (grid < top[:, None] + 8))[:, :, None] & (
        (grid >= left[:, None]) & (grid < left[:, None] + 8)
    )[:, None, :]
    hole &= (torch.rand(n, generator=generator) < 0.5)[:, None, None]
    return torch.where(hole, PIXEL_MEAN, y)[:, None]


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(x[i : i + 500].float()).argmax(1) == y[i : i + 500]).sum())
        for i in range(0, len(x), 500)
    )
    return hits / len(x)


def train(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, batch: int, seed: int
) -> None:
    """Train in place: SGD with Nesterov momentum, one warm-up and one cosine, bfloat16 maths."""
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-3}, {"params": plain, "weight_decay": 0.0}],
        lr=0.1, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.15, total_steps=steps, pct_start=0.2
    )
    model.train().to(memory_format=torch.channels_last)
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        model.train()
        order = torch.randperm(len(x), generator=generator)
        for i in range(0, len(x) - batch + 1, batch):
            index = order[i : i + batch]
            images = augment(x[index].float(), generator).contiguous(
                memory_format=torch.channels_last
            )
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            loss = functional.cross_entropy(logits.float(), y[index], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}/{epochs}  loss {total / (len(x) // batch):.4f}  {seconds:.0f} s",
              flush=True)  # fmt: skip


def strip_metadata(path: Path) -> None:
    """Drop the exporter's notes (they hold stack traces and paths of the machine it ran on)."""
    exported = onnx.load(path)
    graph = exported.graph
    for part in [exported, graph, *graph.node, *graph.input, *graph.output, *graph.value_info]:
        del part.metadata_props[:]
        part.doc_string = ""
    del exported.functions[:]
    onnx.checker.check_model(exported)
    onnx.save(exported, path)


def main() -> None:
    """Train, export, check the export against PyTorch, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=OUT)
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    images = read_idx(args.images / "train-images-idx3-ubyte.gz")[:, None].copy()
    labels = read_idx(args.images / "train-labels-idx1-ubyte.gz").astype(np.int64)
    test_images = read_idx(args.images / "t10k-images-idx3-ubyte.gz")[:, None].copy()
    test_labels = read_idx(args.images / "t10k-labels-idx1-ubyte.gz").astype(np.int64)
    order = np.random.default_rng(args.seed).permutation(len(images))
    kept, held_back = order[HELD_BACK_ITEMS:], order[:HELD_BACK_ITEMS]

    model = FashionNet()
    started = time.monotonic()
    train(model, torch.from_numpy(images[kept]), torch.from_numpy(labels[kept]),
          args.epochs, 128, args.seed)  # fmt: skip
    seconds = time.monotonic() - started
    test_accuracy = accuracy(model, torch.from_numpy(test_images), torch.from_numpy(test_labels))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"test accuracy {test_accuracy:.4f}, {parameters:,} parameters", flush=True)

    args.output.mkdir(parents=True, exist_ok=True)
    model = model.eval().to(memory_format=torch.contiguous_format)
    path = args.output / "fashion_mnist.onnx"
    torch.onnx.export(
        model, (torch.zeros(2, 1, 28, 28),), path, dynamo=True, external_data=False,
        input_names=["pixels"], output_names=["logits"], opset_version=18,
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
    )  # fmt: skip
    strip_metadata(path)
    unseen = np.concatenate([test_images, images[held_back]])
    unseen_labels = np.concatenate([test_labels, labels[held_back]]).astype(np.uint8)
    mix = np.random.default_rng(args.seed + 1).permutation(len(unseen))
    np.savez_compressed(
        args.output / "fashion_mnist.npz", x=unseen[mix], y=unseen_labels[mix],
        classes=np.array(CLASSES),
    )  # fmt: skip
    record = {
        "dataset": "Fashion-MNIST, Zalando SE, MIT licence (Debian dataset-fashion-mnist)",
        "trained_on_items": len(kept),
        "epochs": args.epochs,
        "seed": args.seed,
        "threads": args.threads,
        "train_seconds": round(seconds, 1),
        "parameters": parameters,
        "test_items": len(test_images),
        "test_accuracy": test_accuracy,
        "torch": torch.__version__,
        "onnx_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (args.output / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
