"""The demo's network as it was while it learned: batch normalisation after every convolution.

Exporters fold normalisation into the convolutions; those of older tools did not. Here it is taken
out of them again, with scales and shifts of its own, so that the function stays what it is:
`python -m tests.workloads.batch_norm` prints the path.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from joulewise.demo import MODEL
from tests.workloads.packages import cache_folder

EPSILON = 1e-5


def model() -> Path:
    """Return the ONNX file, made once per machine."""
    target = cache_folder("demo-with-batch-norm") / "model.onnx"
    if not target.exists():
        part = target.with_suffix(".part")
        onnx.save(unfolded(onnx.load(MODEL)), part)
        part.rename(target)
    return target


def unfolded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose convolutions are each followed by batch normalisation.

    With scale s, shift b, mean m and variance 1 - EPSILON, it gives y where the convolution gives
    (y - b) / s + m.
    """
    graph, random, nodes = proto.graph, np.random.default_rng(0), []
    held = {each.name: each for each in graph.initializer}
    for number, node in enumerate(graph.node):
        nodes.append(node)
        if node.op_type != "Conv":
            continue
        weight = numpy_helper.to_array(held[node.input[1]])
        channels = len(weight)
        bias = np.zeros(channels)
        if len(node.input) > 2:
            bias = numpy_helper.to_array(held[node.input[2]])
        scale, shift, mean = random.uniform(0.5, 2.0, channels), *random.normal(size=(2, channels))
        arrays = {
            "weight": weight / scale[:, None, None, None],
            "bias": (bias - shift) / scale + mean,
            "scale": scale,
            "shift": shift,
            "mean": mean,
            "variance": np.full(channels, 1.0 - EPSILON),
        }
        names = {what: f"unfolded{number}.{what}" for what in arrays}
        for what, array in arrays.items():
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), names[what]))
        output, plain = node.output[0], f"{node.output[0]}.plain"
        node.input[1:] = [names["weight"], names["bias"]]
        node.output[0] = plain
        inputs = [plain, *(names[what] for what in ("scale", "shift", "mean", "variance"))]
        nodes.append(helper.make_node("BatchNormalization", inputs, [output], epsilon=EPSILON))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return proto


if __name__ == "__main__":
    print(model())
