"""The model as the user has it: checked, described and digested, without running it.

Weights in external files are never read here: their locations are checked first, so that a model
cannot make joulewise read or copy a file outside its own folder, and the checker works on the
path, so that a large model is not held in memory twice.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from joulewise.core.errors import InputError, MissingExtraError, one_line
from joulewise.core.records import Artifact, describe_artifact

__all__ = ["Model", "TensorSpec", "load_model"]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output of a model.

    Args:
        name: as the graph calls it.
        dtype: numpy name of the element type ("float32"); "str" for strings.
        shape: sizes by axis, None where the size is free; the first axis is the batch.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """An ONNX model on disk.

    Args:
        path: the file to open.
        artifact: that file and its external weight files, relative to the folder of `path`.
        inputs: tensors that the user feeds; weights listed as inputs are left out.
        outputs: tensors that the model answers with.
        operators: operator type -> how many nodes, those of subgraphs included.
        parameters: numbers stored in initialisers and Constant nodes (sparse ones: with indices).
    """

    path: Path
    artifact: Artifact
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    parameters: int


def load_model(path: Path) -> Model:
    """Return the description of the ONNX model at `path`.

    Args:
        path: a ``.onnx`` file.

    Raises:
        InputError: the file is missing, corrupt, empty, not valid ONNX, keeps weights outside its
            folder, or has inputs or outputs that are not tensors.
        MissingExtraError: the package onnx is not installed.
    """
    onnx = _import_onnx()
    _check_path(path)
    proto = _parse(onnx, path)
    graph = proto.graph
    if not graph.node:
        raise InputError(f"{path} holds no operators; export the model again")
    tensors = list(_stored_tensors(proto))
    external = _external_files(onnx, path, tensors)
    _check_graph(onnx, path)
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {sparse.values.name for sparse in graph.sparse_initializer}
    inputs = tuple(_describe(onnx, path, x) for x in graph.input if x.name not in weights)
    outputs = tuple(_describe(onnx, path, x) for x in graph.output)
    if not inputs or not outputs:
        lacking = "outputs" if inputs else "inputs"
        raise InputError(f"{path} has no {lacking}; export the model again with {lacking}")
    return Model(
        path=path,
        artifact=describe_artifact(path.parent, [path.name, *external], "onnx"),
        inputs=inputs,
        outputs=outputs,
        operators=Counter(node.op_type for g in _graphs(graph) for node in g.node),
        parameters=sum(math.prod(tensor.dims) for tensor in tensors),
    )


def _import_onnx() -> ModuleType:
    """Return the package onnx with its checker; raises MissingExtraError."""
    try:
        import onnx
        import onnx.checker
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx") from error
    module: ModuleType = onnx
    return module


def _check_path(path: Path) -> None:
    """Raise InputError unless `path` is a file called ``*.onnx``."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the .onnx file inside it")
    if not path.is_file():
        raise InputError(f"there is no model at {path}; check the path")
    if path.suffix.lower() != ".onnx":
        raise InputError(f"{path} is not a .onnx file; export the model to ONNX first")


def _parse(onnx: ModuleType, path: Path) -> Any:  # noqa: ANN401 (onnx.ModelProto, a lazy import)
    """Return the ModelProto in `path`, external weights not loaded."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(os.fspath(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (DecodeError, ValueError) as error:  # ValueError: beyond the 2 GiB of protobuf
        raise InputError(
            f"{path} is truncated or not an ONNX model ({one_line(error)}); copy or export it again"
        ) from error


def _check_graph(onnx: ModuleType, path: Path) -> None:
    """Raise InputError unless onnx's own checker accepts the model."""
    try:
        onnx.checker.check_model(os.fspath(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} is not valid ONNX: {one_line(error)}; export it again") from error


def _graphs(graph: Any) -> Iterator[Any]:  # noqa: ANN401 (onnx.GraphProto)
    """Yield `graph` and all graphs inside the attributes of its nodes."""
    yield graph
    yield from _graphs_in(graph.node)


def _graphs_in(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield all graphs inside the attributes of `nodes`, at any depth."""
    for attribute in (a for node in nodes for a in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _graphs(inner)


def _stored_tensors(proto: Any) -> Iterator[Any]:  # noqa: ANN401 (onnx.ModelProto)
    """Yield every TensorProto in the model: initialisers and attributes, sparse ones by values."""
    graphs = [*_graphs(proto.graph), *(g for f in proto.functions for g in _graphs_in(f.node))]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    bodies = [*(graph.node for graph in graphs), *(f.node for f in proto.functions)]
    for attribute in (a for nodes in bodies for node in nodes for a in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)


def _external_files(onnx: ModuleType, path: Path, tensors: Iterable[Any]) -> list[str]:
    """Return the names of external weight files, relative to the model's folder, in model order."""
    names: dict[str, None] = {}
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            name = _check_location(path, entries.get("location", ""))
            _check_extent(path, name, entries)
            names[name] = None
    return list(names)


def _check_location(path: Path, location: str) -> str:
    """Return `location` normalised; raises InputError unless it is a file in the model's folder."""
    name = os.path.normpath(location)
    folder = path.parent
    try:
        target = (folder / location).resolve()
        inside = target.is_relative_to(folder.resolve()) and target == (folder / name).resolve()
        missing = not target.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, NUL bytes
        raise InputError(
            f"{path} names unusable external weights {location!r}; export the model again"
        ) from error
    if Path(location).is_absolute() or not inside:
        raise InputError(
            f"{path} keeps weights outside its folder ({location!r}); "
            "put the weight files beside the model and export it again"
        )
    if missing:
        raise InputError(
            f"{path} needs the weight file {location!r}, which is missing; copy it beside the model"
        )
    return name


def _check_extent(path: Path, name: str, entries: Mapping[str, str]) -> None:
    """Raise InputError unless the external file is long enough for this tensor."""
    extent = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in extent):
        raise InputError(f"{path} gives a bad offset or length in {name!r}; export the model again")
    if sum(map(int, extent)) > (path.parent / name).stat().st_size:
        raise InputError(f"the weight file {name!r} of {path} is truncated; copy it again")


def _describe(onnx: ModuleType, path: Path, value: Any) -> TensorSpec:  # noqa: ANN401 (ValueInfoProto)
    """Return the spec of a graph input or output."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InputError(
            f"{value.name!r} of {path} is a {str(kind).removesuffix('_type')}; "
            "only tensor inputs and outputs are supported: "
            "export the model again with tensors (scikit-learn: zipmap=False)"
        )
    tensor = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=_dtype_name(onnx, path, tensor.elem_type),
        shape=tuple(_size(dim) for dim in tensor.shape.dim),
    )


def _size(dim: Any) -> int | None:  # noqa: ANN401 (onnx.TensorShapeProto.Dimension)
    """Return a fixed size, None for a free one (also where exporters write 0 or -1)."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _dtype_name(onnx: ModuleType, path: Path, element: int) -> str:
    """Return the numpy name of an ONNX element type."""
    if element == onnx.TensorProto.STRING:
        return "str"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)
    except KeyError as error:
        raise InputError(
            f"{path} uses the element type {element}, unknown to the installed onnx; upgrade onnx"
        ) from error
