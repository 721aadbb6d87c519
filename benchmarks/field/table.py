"""Which models, and which optimisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from joulewise.core.settings import Settings
from joulewise.demo import DATA, MODEL

__all__ = [
    "ENVIRONMENTS",
    "NOT_AHEAD",
    "NOT_RUN",
    "PEERS",
    "SCALING",
    "SCALING_PEERS",
    "SHORT",
    "WORKLOADS",
    "Peer",
    "Workload",
]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A trained model and its items.

    Args:
        title: for people.
        model: gives the path of the ONNX file; called when it is needed, as it may be fetched or
            trained first.
        data: items to calibrate, search and judge with, as `joulewise.optimize` takes them.
        train: items to learn from, None where there are none.
        batch_items: items per inference call.
        settings: terms of the proof, for all alike.
    """

    title: str
    model: Callable[[], Path]
    data: str
    train: str | None = None
    batch_items: int = 1
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A way to use an optimiser.

    Args:
        title: for people.
        module: of benchmarks.field.peers.
        environment: name in ENVIRONMENTS.
        packages: whose versions are recorded.
        note: what a reader of its figures should know.
    """

    title: str
    module: str
    environment: str
    packages: tuple[str, ...]
    note: str = ""


ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnx", "onnxruntime", "sympy"),
    "openvino": ("openvino", "nncf"),
    "modelopt": ("torch==2.13.0", "nvidia-modelopt[onnx]"),
    "torch": ("torch==2.13.0", "onnx", "onnxruntime"),
    "litert": (
        "torch==2.13.0",
        "litert-torch",
        "litert-quantizer",
        "ai-edge-litert",
        "onnx",
        "onnxruntime",
    ),
    "torchao": ("torch==2.13.0", "torchao", "onnx", "onnxruntime"),
    "executorch": ("torch==2.13.0", "executorch", "onnx", "onnxruntime"),
    "torch-pruning": ("torch==2.13.0", "torch-pruning", "onnx", "onnxruntime"),
    "olive": ("torch==2.13.0", "olive-ai[cpu]", "requests"),  # which Olive imports unasked
    "neural-compressor": ("torch==2.13.0", "neural-compressor-pt", "onnx", "onnxruntime"),
    "neural-compressor-onnx": (
        "onnx-neural-compressor",
        "prettytable",  # which it imports unasked
        "onnxruntime>=1.17.0",
        "onnx",
    ),
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
        note="it computes in bf16 where the CPU has that, unasked, so answers may differ",
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
    "torch": Peer(
        title="PyTorch, as it is",
        module="torch_eager",
        environment="torch",
        packages=("torch",),
    ),
    "torch-compiled": Peer(
        title="PyTorch, compiled",
        module="torch_compiled",
        environment="torch",
        packages=("torch",),
        note="on PDF pages Inductor folds an addition into a transposed convolution, with as many "
        "values as channels go in (24), where one comes out, and fails; so do those that run by it",
    ),
    "litert": Peer(
        title="LiteRT, as it is",
        module="litert_float",
        environment="litert",
        packages=("litert-torch", "ai-edge-litert"),
    ),
    "litert-int8": Peer(
        title="LiteRT static int8",
        module="litert_int8",
        environment="litert",
        packages=("litert-torch", "litert-quantizer", "ai-edge-litert"),
        note="its documentation recommends static int8 for NPUs and dynamic for CPUs",
    ),
    "litert-dynamic": Peer(
        title="LiteRT dynamic int8",
        module="litert_dynamic",
        environment="litert",
        packages=("litert-torch", "litert-quantizer", "ai-edge-litert"),
    ),
    "torchao": Peer(
        title="torchao static int8",
        module="torchao_static",
        environment="torchao",
        packages=("torchao", "torch"),
        note="it looks for layers, whose names are written beside the operators for it",
    ),
    "torchao-dynamic": Peer(
        title="torchao dynamic int8",
        module="torchao_dynamic",
        environment="torchao",
        packages=("torchao", "torch"),
        note="it changes linear layers only",
    ),
    "executorch": Peer(
        title="ExecuTorch int8",
        module="executorch_int8",
        environment="executorch",
        packages=("executorch", "torchao"),
    ),
    "torch-pruning": Peer(
        title="Torch-Pruning, half of the channels",
        module="torch_pruning_half",
        environment="torch-pruning",
        packages=("torch-pruning", "torch"),
        note="fine-tuning is that of its own benchmarks; it needs items to learn from; of MiniLM "
        "it cuts a weight outside layers along another side than what that is added to, and fails",
    ),
    "modelopt": Peer(
        title="ModelOpt int8",
        module="modelopt_int8",
        environment="modelopt",
        packages=("nvidia-modelopt",),
    ),
    "olive": Peer(
        title="Olive, search over int8",
        module="olive_search",
        environment="olive",
        packages=("olive-ai", "onnxruntime"),
        note="four points of its search: its documentation's five, less what does not exist",
    ),
    "neural-compressor": Peer(
        title="Neural Compressor, static int8",
        module="neural_compressor_static",
        environment="neural-compressor",
        packages=("neural-compressor-pt", "torch", "torchao"),
    ),
    "neural-compressor-onnx": Peer(
        title="Neural Compressor (ONNX), static int8",
        module="neural_compressor_onnx",
        environment="neural-compressor-onnx",
        packages=("onnx-neural-compressor", "onnxruntime"),
    ),
}


SENTENCES = "tests.workloads.sentences:items"


NOT_AHEAD: Mapping[str, str] = {
    "demo": "joulewise came to LiteRT's int8 too; that of weights and activations and that of "
    "weights alone need the same here (0.37 times the original by ONNX Runtime on one thread, in "
    "its search), and nothing else that it tried came near (0.42 and more)",
    "file-types": "both leave the model as it is and run it by OpenVINO. LiteRT's dynamic int8 "
    "needs half of that, but answered 1 of 599 search items otherwise (4 of 931 held-out ones), "
    "which is not certainly within the margin; nor is what NNCF's accuracy control gives back, "
    "6 of 931; int8 by ONNX Runtime lost more, by NNCF 30 points and more",
    "letters": "both are LiteRT's dynamic int8 of the whole network. A network pruned to a third "
    "needs less (0.28 instead of 0.32 times the original by ONNX Runtime on one thread), but "
    "failed the final test; taught for 60 epochs instead of 20, none went into it, and the same "
    "was chosen (1.09 then)",
    "pages": "both leave the model as it is and run it by OpenVINO. NNCF's int8 needs 0.64 of "
    "that, but not one of the 121 maps then stays within 5 % of the original's; nor does one by "
    "any other int8 that ran, ours with nodes left in floats among them. NNCF's accuracy control "
    "turns so much back to floats that one map is lost, and needs no less than the original",
    "pictures": "both leave the model as it is and run it by OpenVINO. What others make in int8 "
    "and needs less loses 7 to 59 points, least by NNCF with accuracy control (0.75 of OpenVINO); "
    "the nearest in joulewise's search, static int8 with five nodes left in floats and ranges "
    "without the outermost 0.01 %, changed 11 of 215 answers, where 5 % may change (0.57 times the "
    "original by ONNX Runtime on one thread)",
    "smollm": "both are NNCF's int8 (0.32 times the original by ONNX Runtime on one thread, in "
    "its search). Of what else kept the quality there, static int8 by ONNX Runtime needs 0.42 and "
    "LiteRT's dynamic int8 0.63; there was nothing to learn from",
    "text-angle": "both leave the model as it is and run it by OpenVINO. Its products take 2 to 6 "
    "times as long in int8 by ONNX Runtime (2.3 to 7.1 ms of a call instead of 1.2 ms); int8 by "
    "NNCF loses 4 to 12 points, LiteRT's static int8 3",
    "tones": "both are ONNX Runtime's static int8 of the whole network. Networks pruned to a third "
    "and taught need less (0.23 in int8 and 0.26 in floats by LiteRT, instead of 0.33 times the "
    "original by ONNX Runtime on one thread), but the surer of them lost 0.35 points in the final "
    "test, with a bound of -0.57 where 0.5 may be lost",
}
"""Workload -> why joulewise's model is not certainly cheaper than the best other."""

NOT_RUN: Mapping[str, str] = {
    "Pruna 0.3.4": "its import needs torchvision, of which this PyTorch had no build to be had; "
    "on CPUs its documentation uses `torch.compile` alone, which is above",
    "NNCF int8 with accuracy control, of PP-OCR's angle,": "it had not come to an end after 20 "
    "minutes on one CPU",
    "Olive, of 20 Newsgroups,": "the system ended it when it had all of 22 GB of memory",
}
"""What is not compared, and why."""


def _text_angle() -> Path:
    from tests.workloads import text_angle

    return text_angle.model()


def _file_types() -> Path:
    from tests.workloads import file_types

    return file_types.model()


def _time_series(name: str, share: float = 1.0) -> Path:
    from tests.workloads import time_series

    return time_series.model(name, share)


def _texts(name: str) -> Path:
    from tests.workloads import texts

    return texts.model(name)


def _sentences() -> Path:
    from joulewise.learn.source import as_onnx
    from tests.workloads import packages, sentences

    folder = packages.cache_folder("sentences-onnx")
    found = folder / "model.onnx"
    return found if found.exists() else as_onnx(sentences.model(), SENTENCES, folder)


def _letters() -> Path:
    from tests.workloads import letters

    return letters.model()


def _watch() -> Path:
    from tests.workloads import watch

    return watch.model()


def _voices() -> Path:
    from tests.workloads import voices

    return voices.model()


def _tones() -> Path:
    from tests.workloads import tones

    return tones.model()


def _smollm() -> Path:
    from tests.workloads import smollm

    return smollm.model()


def _pages() -> Path:
    from tests.workloads import pages

    return pages.model()


def _pictures() -> Path:
    from tests.workloads import pictures

    return pictures.model()


WORKLOADS: Mapping[str, Workload] = {
    "demo": Workload(title="Fashion-MNIST, ResNet", model=lambda: MODEL, data=str(DATA)),
    "demo-taught": Workload(
        title="Fashion-MNIST, ResNet, with items to learn from",
        model=lambda: MODEL,
        data=str(DATA),
        train="tests.workloads.fashion_mnist:lessons",
        settings=Settings(epochs=12, augment="flip"),
    ),
    "pictures": Workload(
        title="EfficientNet-Lite0, stamps",
        model=_pictures,
        data="tests.workloads.pictures:stamps",
        settings=Settings(margin=0.05),
    ),
    "r8": Workload(
        title="MiniLM, news of Reuters R8",
        model=partial(_texts, "reuters-r8"),
        data="tests.workloads.texts:r8",
        train="tests.workloads.texts:r8_lessons",
        settings=Settings(epochs=2),
    ),
    "20newsgroups": Workload(
        title="MiniLM, posts of 20 Newsgroups",
        model=partial(_texts, "20newsgroups"),
        data="tests.workloads.texts:news",
        train="tests.workloads.texts:news_lessons",
        settings=Settings(margin=0.01, epochs=2),
    ),
    "sentences": Workload(
        title="MiniLM, vectors of sentences",
        model=_sentences,
        data=SENTENCES,
        settings=Settings(margin=0.05, task="vectors"),
    ),
    "appliances": Workload(
        title="ElectricDevices, convolutions along time",
        model=partial(_time_series, "ElectricDevices"),
        data="tests.workloads.time_series:appliances",
        train="tests.workloads.time_series:appliances_lessons",
        settings=Settings(epochs=20),
    ),
    "engines": Workload(
        title="FordA, convolutions along time",
        model=partial(_time_series, "FordA"),
        data="tests.workloads.time_series:ford",
        train="tests.workloads.time_series:ford_lessons",
        settings=Settings(margin=0.01, epochs=40, augment="mixup", seed=3),
    ),
    "hearts": Workload(
        title="ECG5000, convolutions along time",
        model=partial(_time_series, "ECG5000"),
        data="tests.workloads.time_series:heart",
        train="tests.workloads.time_series:heart_lessons",
        settings=Settings(epochs=40, augment="mixup"),
    ),
    "text-angle": Workload(
        title="PP-OCR, angle of a line",
        model=_text_angle,
        data="tests.workloads.text_angle:items",
    ),
    "pages": Workload(
        title="PP-OCRv4, text on PDF pages",
        model=_pages,
        data="tests.workloads.pages:items",
        settings=Settings(task="values", margin=0.1),
    ),
    "file-types": Workload(
        title="Magika, type of a file",
        model=_file_types,
        data="tests.workloads.file_types:items",
    ),
    "letters": Workload(
        title="Letters by 16 numbers, linear layers",
        model=_letters,
        data="tests.workloads.letters:items",
        train="tests.workloads.letters:lessons",
        settings=Settings(epochs=20),
    ),
    "smollm": Workload(
        title="SmolLM2-135M, the next token",
        model=_smollm,
        data="tests.workloads.smollm:items",
        settings=Settings(margin=0.05, proposals=0),
    ),
    "watch": Workload(
        title="Exercises of a watch's wearer, convolutions along time",
        model=_watch,
        data="tests.workloads.watch:items",
        train="tests.workloads.watch:lessons",
        settings=Settings(margin=0.12, epochs=40, augment="mixup", cluster_name="recording"),
    ),  # 56 recordings certify no smaller margin
    "voices": Workload(
        title="Silero VAD, speech in noise",
        model=_voices,
        data="tests.workloads.voices:items",
    ),
    "tones": Workload(
        title="Keys of a telephone under a voice, convolutions along time",
        model=_tones,
        data="tests.workloads.tones:items",
        train="tests.workloads.tones:lessons",
        settings=Settings(epochs=20),
    ),
}

SHORT = ("hearts", "letters")
"""Small ones, on which nothing learns, for a short look."""

SCALING: Mapping[str, Workload] = {
    **{
        f"batch-{items}": Workload(
            title=f"Fashion-MNIST, {items} at a time",
            model=lambda: MODEL,
            data=str(DATA),
            batch_items=items,
        )
        for items in (1, 8, 32)
    },
    **{
        f"items-{items}": Workload(
            title=f"Fashion-MNIST, {items:,} images",
            model=lambda: MODEL,
            data=f"benchmarks.field.scaled:images_{items}",
            settings=Settings(margin=0.01),
        )
        for items in (2000, 4000, 8000)
    },
    **{
        f"width-{percent}": Workload(
            title=f"ECG5000, {percent} % of the channels",
            model=partial(_time_series, "ECG5000", percent / 100),
            data="tests.workloads.time_series:heart",
        )
        for percent in (25, 50, 100)
    },
}
"""What grows, a dash and how much of it -> nothing learns, so that all do the same."""

SCALING_PEERS = ("nncf-accuracy", "olive")
"""Those that search too."""
