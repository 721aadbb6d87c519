"""Which models, and which optimisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from joulewise.core.settings import Settings
from joulewise.demo import DATA, MODEL

__all__ = ["ENVIRONMENTS", "PEERS", "WORKLOADS", "Peer", "Workload"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A trained model and its items.

    Args:
        title: for people.
        model: gives the path of the ONNX file; called when it is needed, as it may be fetched or
            trained first.
        data: items to calibrate, search and judge with, as `joulewise.optimize` takes them.
        train: items to learn from, None where there are none.
        settings: terms of the proof, for all alike.
    """

    title: str
    model: Callable[[], Path]
    data: str
    train: str | None = None
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A way to use an optimiser.

    Args:
        title: for people.
        module: of benchmarks.field.peers.
        environment: name in ENVIRONMENTS.
        packages: whose versions are recorded.
    """

    title: str
    module: str
    environment: str
    packages: tuple[str, ...]


ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnx", "onnxruntime", "sympy"),
    "openvino": ("openvino", "nncf"),
    "modelopt": ("torch==2.13.0", "nvidia-modelopt[onnx]"),
}
"""Name -> what is installed there beside joulewise, in its newest version.

PyTorch is that of the Makefile, so that one file on disk serves for all.
"""

PEERS: Mapping[str, Peer] = {
    "onnxruntime": Peer(
        title="ONNX Runtime, as it is",
        module="onnxruntime_float",
        environment="onnxruntime",
        packages=("onnxruntime",),
    ),
    "onnxruntime-dynamic": Peer(
        title="ONNX Runtime, dynamic int8",
        module="onnxruntime_dynamic",
        environment="onnxruntime",
        packages=("onnxruntime",),
    ),
    "onnxruntime-static": Peer(
        title="ONNX Runtime, static int8",
        module="onnxruntime_static",
        environment="onnxruntime",
        packages=("onnxruntime",),
    ),
    "openvino": Peer(
        title="OpenVINO, as it is",
        module="openvino_float",
        environment="openvino",
        packages=("openvino",),
    ),
    "nncf": Peer(
        title="NNCF int8",
        module="nncf_default",
        environment="openvino",
        packages=("nncf", "openvino"),
    ),
    "nncf-accuracy": Peer(
        title="NNCF int8 with accuracy control",
        module="nncf_accuracy",
        environment="openvino",
        packages=("nncf", "openvino"),
    ),
    "modelopt": Peer(
        title="ModelOpt int8",
        module="modelopt_int8",
        environment="modelopt",
        packages=("nvidia-modelopt",),
    ),
}


def _text_angle() -> Path:
    from tests.workloads import text_angle

    return text_angle.model()


def _file_types() -> Path:
    from tests.workloads import file_types

    return file_types.model()


def _appliances() -> Path:
    from tests.workloads import time_series

    return time_series.model(time_series.APPLIANCES)


WORKLOADS: Mapping[str, Workload] = {
    "demo": Workload(title="Fashion-MNIST, ResNet", model=lambda: MODEL, data=str(DATA)),
    "text-angle": Workload(
        title="PP-OCR, angle of a line",
        model=_text_angle,
        data="tests.workloads.text_angle:items",
    ),
    "file-types": Workload(
        title="Magika, type of a file",
        model=_file_types,
        data="tests.workloads.file_types:items",
    ),
    "appliances": Workload(
        title="ElectricDevices, convolutions along time",
        model=_appliances,
        data="tests.workloads.time_series:appliances",
    ),
}
