"""The data as the user has it: an archive of arrays, a folder of images, or a Python function.

Arrays keep the small dtype in which they were given (uint8 for images) and are cast to the model's
dtype batch by batch. Nothing is ever unpickled.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from joulewise.core.errors import InputError, MissingExtraError, UsageError, one_line
from joulewise.workload.distributions import NO_TOKEN
from joulewise.workload.model import Model, TensorSpec

__all__ = [
    "FUNCTION",
    "Dataset",
    "as_asked",
    "call_user_function",
    "check_data",
    "load_arrays",
    "load_data",
]

Array = npt.NDArray[Any]

INPUT_KEYS = ("x", "X", "images", "inputs", "data")
LABEL_KEYS = ("y", "labels", "label", "targets")
CLASSES_KEY = "classes"
TABLE_AXES = 2  # labels of tokens, or of several classes per item
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
CHUNK_BYTES = 1 << 22
UNREADABLE = (  # what zipfile, zlib and numpy's parser of headers raise on damaged archives
    EOFError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
FUNCTION = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")
NEEDS_PICKLE = (
    "would need pickle, which can run code; save plain arrays with np.savez(path, x=..., y=...)"
)
FORMS = (
    "a .npz archive of arrays, a folder of images, or a Python function as package.module:function"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Items of data in their real order.

    Args:
        inputs: model input name -> array [n, ...] in the dtype in which it was given.
        labels: classes, int64 [n], or tokens [n, t], or 0 and 1 for several classes [n, k]; None if
            unknown.
        targets: labels that are values, float64 [n] or [n, ...], None if there are none.
        classes: class names by label, empty if unknown.
        slices: that items belong to besides their class, int64 [n], None if there are none.
        slice_names: of the slices, in the order of their numbers.
        clusters: of items that belong together, numbers from 0, int64 [n]; None if there are none.
        cluster_names: of the clusters, in the order of their numbers.
        source: the reference it was loaded from, for messages and records.
    """

    inputs: Mapping[str, Array]
    labels: npt.NDArray[np.int64] | None = None
    targets: npt.NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    slices: npt.NDArray[np.int64] | None = None
    slice_names: tuple[str, ...] = ()
    clusters: npt.NDArray[np.int64] | None = None
    cluster_names: tuple[str, ...] = ()
    source: str

    @property
    def items(self) -> int:
        """Number of items, n."""
        return len(next(iter(self.inputs.values())))


def load_data(
    reference: str, model: Model, slice_name: str | None = None, cluster_name: str | None = None
) -> Dataset:
    """Return the data that `reference` names, for the inputs of `model`.

    Args:
        reference: one of

            - a ``.npz`` archive: arrays called like the model's inputs (for a model with one
              input also x, X, images, inputs or data), optionally labels (y, labels, label or
              targets: integers are classes, floats are values) and class names (classes);
            - a folder of images, or of one subfolder of images per class (labels follow the
              sorted names): pixels are given as 0..255 in the model's channels, height and width
              (bilinear); a model that expects otherwise needs a Python function;
            - ``package.module:function``, importable from the current folder, called without
              arguments: it returns a mapping like the archive, (x, y), (x,) or x.
        model: the model that will take the data.
        slice_name: array beside the items, of integers or words, that says which slice each
            belongs to, where there is one; None for none.
        cluster_name: likewise, that is the same for items that belong together.

    Returns:
        The data as given; see check_data for whether the model can take it.

    Raises:
        InputError: the data are unreadable or incomplete, or the user's function failed.
        UsageError: `reference` has none of these forms, or names no function.
        MissingExtraError: images are given and the package pillow is not installed.
    """
    path = Path(reference)
    if reference and path.is_dir():
        return _load_images(path, model)
    if path.suffix.lower() == ".npz":
        return _assemble(_read_archive(path), model, reference, slice_name, cluster_name)
    if path.suffix.lower() == ".npy":
        raise InputError(
            f"{reference} holds a single array; save it as .npz with np.savez(path, x=..., y=...)"
        )
    if match := FUNCTION.fullmatch(reference):
        return _load_function(match["module"], match["name"], model, slice_name, cluster_name)
    raise UsageError(f"cannot read data from {reference!r}; give {FORMS}")


def load_arrays(reference: str, beside: Sequence[str] = ()) -> dict[str, Array]:
    """Return the named arrays of a reference without labels and class names, for no model yet.

    Args:
        reference: a ``.npz`` archive or ``package.module:function``, as in `load_data`; what is
            not a mapping is called x.
        beside: arrays that are left out as well.

    Raises:
        InputError: the data are unreadable, or the user's function failed.
        UsageError: `reference` has none of these forms, or names no function.
    """
    if Path(reference).suffix.lower() == ".npz":
        values: Mapping[Any, Any] = _read_archive(Path(reference))
    elif match := FUNCTION.fullmatch(reference):
        found = call_user_function(match["module"], match["name"])
        first = found[0] if isinstance(found, tuple) and found else found
        values = found if isinstance(found, Mapping) else {"x": first}
    else:
        raise UsageError(
            f"cannot tell the model's inputs from {reference!r}; give a .npz archive of arrays or "
            "a Python function as package.module:function"
        )
    names = [name for name in values if name not in (*LABEL_KEYS, CLASSES_KEY, *beside)]
    return {str(name): _as_items(values[name], str(name), reference) for name in names}


def as_asked(dataset: Dataset, task: str) -> Dataset:
    """Return the data with labels as a task takes them: with "values" integers are values too.

    Args:
        dataset: the data.
        task: one of `joulewise.core.settings.TASKS`, or what a metric needs.

    Raises:
        InputError: the labels are of another kind than the task's.
    """
    _check_axes(dataset, task)
    if task == "values" and dataset.classes:
        raise InputError(
            f"{dataset.source} names classes, but --task values takes labels that are values; "
            "leave the classes out, or use --task classes"
        )
    if task == "values" and dataset.labels is not None:
        return replace(dataset, labels=None, targets=dataset.labels.astype(np.float64))
    if task in ("classes", "vectors") and dataset.targets is not None:
        raise InputError(
            f"labels of {dataset.source} are floats, but --task {task} takes the index of a class "
            "for each item; give integers, or use --task values"
        )
    return dataset


def check_data(dataset: Dataset, model: Model, batch_items: int, task: str = "auto") -> None:
    """Raise unless `model` can take every item of `dataset` in batches of `batch_items`.

    Args:
        dataset: the data.
        model: the model.
        batch_items: items per inference call.
        task: one of `joulewise.core.settings.TASKS`, or what a metric needs.

    Raises:
        InputError: item counts, shapes, dtypes, values or labels do not fit.
        UsageError: the model has a fixed batch size other than `batch_items`.
    """
    if dataset.items == 0:
        raise InputError(f"{dataset.source} holds no items; give at least one")
    for name, array in dataset.inputs.items():
        _check_count(name, array, dataset)
    for spec in model.inputs:
        array = dataset.inputs[spec.name]
        _check_shape(spec, array)
        _check_batch(spec, batch_items)
        _check_dtype(spec, array)
        _check_finite(spec, array)
    if dataset.slices is not None:
        _check_count("slices", dataset.slices, dataset)
    if dataset.clusters is not None:
        _check_count("clusters", dataset.clusters, dataset)
    if dataset.labels is not None:
        _check_count("labels", dataset.labels, dataset)
        if task == "several classes":
            _check_several(dataset.labels, dataset)
        elif task == "tokens":
            _check_tokens(dataset.labels, dataset)
        else:
            _check_labels(dataset.labels, dataset, model, vectors=task == "vectors")
    if dataset.targets is not None:
        _check_count("labels", dataset.targets, dataset)
        _check_targets(dataset.targets, dataset, model)


# ---------------------------------------------------------------- arrays with names


def _assemble(
    values: Mapping[Any, Any],
    model: Model,
    source: str,
    slice_name: str | None,
    cluster_name: str | None,
) -> Dataset:
    """Return the data set made of named arrays, the names understood as in load_data."""
    keys = {spec.name: _key_of(spec, values, model) for spec in model.inputs}
    lacking = [name for name, key in keys.items() if key is None]
    if lacking:
        raise InputError(
            f"{source} has no array for the model's input {', '.join(map(repr, lacking))}; "
            f"it has: {_listed(values) or 'nothing'}"
        )
    rest = [key for key in values if key not in keys.values()]
    label_key = next((key for key in LABEL_KEYS if key in rest), None)
    unknown = [key for key in rest if key not in (label_key, CLASSES_KEY, slice_name, cluster_name)]
    if unknown:
        raise InputError(
            f"{source} has arrays that were not understood: {_listed(unknown)}; remove or rename "
            f"them (inputs: {_listed(keys)}; labels: {_listed(LABEL_KEYS)}; {CLASSES_KEY!r})"
        )
    return Dataset(
        inputs={name: _as_items(values[key], name, source) for name, key in keys.items()},
        **({} if label_key is None else _as_labels(values[label_key], source)),
        classes=_as_classes(values[CLASSES_KEY], source) if CLASSES_KEY in rest else (),
        **_slices_and_clusters(values, slice_name, cluster_name, source),
        source=source,
    )


def _slices_and_clusters(
    values: Mapping[Any, Any], slice_name: str | None, cluster_name: str | None, source: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if slice_name in values:
        names, numbers = _as_groups(values[slice_name], str(slice_name), source)
        found |= {"slices": numbers, "slice_names": names}
    if cluster_name in values:
        names, numbers = _as_groups(values[cluster_name], str(cluster_name), source)
        found |= {"clusters": numbers, "cluster_names": names}
    return found


def _as_groups(
    value: Any,  # noqa: ANN401 (the user's)
    name: str,
    source: str,
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the names of groups, and the number of that of each item, int64 [n]."""
    array = _as_array(value, name, source)
    if array.ndim != 1 or array.dtype.kind not in "iubU":
        raise InputError(
            f"{name!r} of {source} must be one integer or word per item, not {array.dtype.name} "
            f"{_shape_text(array.shape)}"
        )
    names, numbers = np.unique(array, return_inverse=True)
    return tuple(map(str, names)), numbers.astype(np.int64)


def _key_of(spec: TensorSpec, keys: Collection[Any], model: Model) -> str | None:
    """Return the key under which an input is given, None if it is not."""
    others = INPUT_KEYS if len(model.inputs) == 1 else ()
    return next((key for key in (spec.name, *others) if key in keys), None)


def _listed(names: Collection[Any]) -> str:
    """Return names for a message."""
    return ", ".join(map(repr, names))


def _as_array(value: Any, name: str, source: str) -> Array:  # noqa: ANN401 (the user's own)
    """Return `value` as a plain array; raises InputError where it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a device
        raise InputError(
            f"{name!r} of {source} is not an array ({one_line(error)}); give a numpy array"
        ) from error
    if array.dtype.hasobject:
        raise InputError(
            f"{name!r} of {source} holds Python objects; give an array of numbers of one shape"
        )
    return array


def _as_items(value: Any, name: str, source: str) -> Array:  # noqa: ANN401 (the user's own)
    """Return `value` as an array [n, ...]."""
    array = _as_array(value, name, source)
    if not array.ndim:
        raise InputError(f"{name!r} of {source} is a single value; its first axis must be items")
    return array


def _as_labels(value: Any, source: str) -> dict[str, Any]:  # noqa: ANN401 (the user's own)
    """Return labels of integers as `labels`, int64, and of floats as `targets`, float64."""
    array = _as_array(value, "labels", source)
    if array.dtype.kind == "f" and array.ndim:
        return {"targets": array.astype(np.float64)}
    several = array.ndim == TABLE_AXES
    if array.dtype.kind not in ("iub" if several else "iu"):
        raise InputError(
            f"labels of {source} must be integers or floats, not {array.dtype.name}; "
            "give the index of the class of each item, or its value"
        )
    if array.ndim != 1 and not several:
        raise InputError(
            f"labels of {source} must have shape [n], not {_shape_text(array.shape)}; "
            "give one class index per item, or values as floats"
        )
    return {"labels": array.astype(np.int64)}


def _as_classes(value: Any, source: str) -> tuple[str, ...]:  # noqa: ANN401 (the user's own)
    """Return class names."""
    array = _as_array(value, CLASSES_KEY, source)
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InputError(f"{CLASSES_KEY!r} of {source} must be a list of strings, one per class")
    return tuple(map(str, array))


# ---------------------------------------------------------------- .npz


def _read_archive(path: Path) -> dict[str, Array]:
    """Return the arrays of a ``.npz`` archive without ever unpickling."""
    if not path.is_file():
        raise InputError(f"there is no archive at {path}; check the path")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated or not a .npz archive; save it again with np.savez")
    try:
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive:
            return {key: _read_member(archive, key, path) for key in archive.files}
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({one_line(error)}); save it again with np.savez"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path} does not fit in memory; give fewer items") from error


def _read_member(archive: Mapping[str, Any], key: str, path: Path) -> Array:
    """Return one array of an archive; raises InputError where it is pickled."""
    try:
        array = archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise InputError(f"{key!r} of {path} {NEEDS_PICKLE}") from error
    if not isinstance(array, np.ndarray):  # numpy hands out members of other formats as bytes
        raise InputError(f"{key!r} of {path} is not a numpy array or {NEEDS_PICKLE}")
    return array


# ---------------------------------------------------------------- package.module:function


def _load_function(
    module: str, name: str, model: Model, slice_name: str | None, cluster_name: str | None
) -> Dataset:
    """Return the data that the user's function returns."""
    source, value = f"{module}:{name}", call_user_function(module, name)
    if isinstance(value, Mapping):
        return _assemble(value, model, source, slice_name, cluster_name)
    given = value if isinstance(value, tuple) else (value,)
    if len(given) not in (1, 2) or len(model.inputs) != 1:
        raise InputError(
            f"{source} returned {len(given)} value(s) for {len(model.inputs)} model input(s); "
            "return x, (x, y), or a dict of arrays named like the model's inputs"
        )
    return Dataset(
        inputs={model.inputs[0].name: _as_items(given[0], "x", source)},
        **(_as_labels(given[1], source) if given[1:] else {}),
        source=source,
    )


def call_user_function(module: str, name: str) -> Any:  # noqa: ANN401 (the user's own)
    """Return what a function of the user's gives, its module importable from the current folder.

    Raises:
        InputError: it failed, in whatever way.
        UsageError: there is no such function.
    """
    source = f"{module}:{name}"
    with _current_folder_importable():
        function = getattr(_import_module(module, source), name, None)
        if not callable(function):
            raise UsageError(f"module {module!r} has no function {name!r}; check the name")
        try:
            return function()
        except (Exception, SystemExit) as error:  # whatever the user's own code raises
            raise InputError(_failure(source, error)) from error


def _import_module(module: str, source: str) -> ModuleType:
    """Import the user's module; raises UsageError (it is missing) or InputError (it fails)."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            raise UsageError(
                f"there is no module {missing!r} for {source!r}; "
                "run in the folder that holds it, or install it"
            ) from error
        raise InputError(_failure(source, error)) from error


def _failure(source: str, error: BaseException) -> str:
    """Return the message for an error in the user's own code."""
    return f"{source} failed with {type(error).__name__}: {one_line(error)}; mend it and run again"


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder first on the import path for a while."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


# ---------------------------------------------------------------- images


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a model takes images: channels (1 or 3), size in pixels, and the order of the axes."""

    channels: int
    height: int
    width: int
    channels_first: bool


def _load_images(folder: Path, model: Model) -> Dataset:
    """Return the images of `folder` as uint8 [n, ...], decoded once."""
    layout = _layout(folder, model)
    files, labels, classes = _list_images(folder)
    axes = (layout.height, layout.width)
    shape = (layout.channels, *axes) if layout.channels_first else (*axes, layout.channels)
    pixels = np.empty((len(files), *shape), np.uint8)
    for place, file in enumerate(files):
        pixels[place] = _decode(file, layout)
    return Dataset(
        inputs={model.inputs[0].name: pixels},
        labels=None if labels is None else np.asarray(labels, np.int64),
        classes=classes,
        source=str(folder),
    )


def _layout(folder: Path, model: Model) -> _Layout:
    """Return the layout that the model's only input asks for; raises InputError where unclear."""
    shape = model.inputs[0].shape
    if len(model.inputs) == 1 and len(shape) == 4:  # batch, channels, height, width
        for axis, sides in ((1, shape[2:]), (3, shape[1:3])):
            channels, (height, width) = shape[axis], sides
            if channels in (1, 3) and height is not None and width is not None:
                return _Layout(
                    channels=channels, height=height, width=width, channels_first=axis == 1
                )
    takes = "; ".join(f"{spec.name!r} {_spec_text(spec)}" for spec in model.inputs)
    raise InputError(
        f"images in {folder} cannot be fitted to the model ({takes}), which needs one input "
        "[batch, 1 or 3, height, width] of fixed size; give a .npz or a Python function instead"
    )


def _list_images(folder: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    """Return the image files in order, their labels (None in a flat folder), and class names."""
    flat = _images_in(folder)
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[:1] != ".")
    grouped = {name: _images_in(folder / name) for name in classes}
    if flat and any(grouped.values()):
        raise InputError(
            f"{folder} holds images both beside and inside subfolders; "
            "use one subfolder per class, or no subfolders"
        )
    if flat:
        return flat, None, ()
    empty = [name for name, files in grouped.items() if not files]
    if empty or not grouped:
        where = folder / empty[0] if empty else folder
        raise InputError(
            f"{where} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); add some or remove it"
        )
    files = [file for name in classes for file in grouped[name]]
    labels = [label for label, name in enumerate(classes) for _ in grouped[name]]
    return files, labels, tuple(classes)


def _images_in(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name; hidden ones are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name[:1] != "." and path.is_file()
    )


def _decode(path: Path, layout: _Layout) -> npt.NDArray[np.uint8]:
    """Return one image as uint8 [C, H, W] or [H, W, C]."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "images") from error
    mode = "L" if layout.channels == 1 else "RGB"
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise InputError(
                    f"{path} has more than 8 bits per channel; give a Python function instead"
                )
            # Pillow warns unless palettes with transparency pass through RGBA
            plain = image.convert("RGBA") if image.mode == "P" else image
            resized = plain.convert(mode).resize(
                (layout.width, layout.height), Image.Resampling.BILINEAR
            )
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is not a readable image ({one_line(error)}); remove or replace it"
        ) from error
    pixels = np.asarray(resized, np.uint8).reshape(layout.height, layout.width, layout.channels)
    return pixels.transpose(2, 0, 1) if layout.channels_first else pixels


# ---------------------------------------------------------------- checks


def _check_count(name: str, array: Array, dataset: Dataset) -> None:
    """Raise InputError unless `array` has one entry per item."""
    if len(array) != dataset.items:
        raise InputError(
            f"{name}: {len(array)} for {dataset.items} items in {dataset.source}; give one per item"
        )


def _check_shape(spec: TensorSpec, array: Array) -> None:
    """Raise InputError unless all axes but the first fit."""
    if not spec.shape:
        raise InputError(
            f"input {spec.name!r} is a single value without a batch axis; "
            "export the model with that value fixed"
        )
    ours, wanted = array.shape[1:], spec.shape[1:]
    if _fits(ours, wanted):
        return
    missing = [
        axis
        for axis, size in enumerate(wanted)
        if size == 1 and _fits(ours, (*wanted[:axis], *wanted[axis + 1 :]))
    ]
    hint = (
        f"add the missing axis with np.expand_dims(x, {missing[0] + 1})"
        if missing
        else ("reshape or resize the data to that")
    )
    raise InputError(
        f"input {spec.name!r} takes {_spec_text(spec)}, the data has {_shape_text(array.shape)}; "
        f"{hint}"
    )


def _fits(ours: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Return whether sizes are the wanted ones, None meaning any."""
    return len(ours) == len(wanted) and all(
        size in (None, own) for own, size in zip(ours, wanted, strict=True)
    )


def _check_batch(spec: TensorSpec, batch_items: int) -> None:
    """Raise UsageError unless the model takes batches of `batch_items`."""
    fixed = spec.shape[0]
    if fixed not in (None, batch_items):
        raise UsageError(
            f"input {spec.name!r} takes batches of exactly {fixed}, not {batch_items}; "
            f"use --batch {fixed}"
        )


def _check_dtype(spec: TensorSpec, array: Array) -> None:
    """Raise InputError unless casting to the model's dtype loses nothing that matters."""
    if spec.dtype == "str" or array.dtype.kind in "US":
        raise InputError(
            f"input {spec.name!r} is text; string tensors are not supported: "
            "give numbers (tokens) to a model that takes numbers"
        )
    ours = array.dtype
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        wanted = None
    if wanted is None or wanted.kind not in "biufc":
        raise InputError(
            f"input {spec.name!r} takes {spec.dtype}, which the data cannot be given in; "
            "export the model with float32 inputs"
        )
    allowed = ours.kind in "biufc" and (
        np.can_cast(ours, wanted, "safe")
        or (ours == np.float64 and wanted == np.float32)
        or (ours.kind in "iu" and wanted.kind in "iu" and _within(array, np.iinfo(wanted)))
    )
    if not allowed:
        raise InputError(
            f"input {spec.name!r} takes {wanted.name}, the data is {ours.name} and would lose "
            f"values; convert it yourself, for example with x.astype({wanted.name!r})"
        )


def _within(array: Array, limits: np.iinfo[Any]) -> bool:
    """Return whether all integers lie within `limits`."""
    return not array.size or (
        int(array.min()) >= int(limits.min) and int(array.max()) <= int(limits.max)
    )


def _check_finite(spec: TensorSpec, array: Array) -> None:
    """Raise InputError where values are NaN or infinite in the model's dtype."""
    if array.dtype.kind not in "fc":
        return
    count, first = 0, None
    with np.errstate(over="ignore"):  # too large for the model's dtype counts as infinite
        for part in _parts(array, len(array)):
            bad = ~np.isfinite(array[part].astype(spec.dtype))
            count += int(np.count_nonzero(bad))
            if first is None and count:
                first = part.start + int(np.argwhere(bad)[0, 0])
    if count:
        raise InputError(
            f"input {spec.name!r} has {count} NaN or infinite values in {spec.dtype}, "
            f"the first in item {first}; remove or repair those items"
        )


def _check_axes(dataset: Dataset, task: str) -> None:
    """Raise InputError unless labels are one number per item, or a row where the task takes one."""
    wide = task in ("tokens", "several classes")
    if wide and dataset.labels is None:
        raise InputError(
            f"{dataset.source} has no labels that are integers; give "
            + ("the right token of each place" if task == "tokens" else "0 or 1 for each class")
        )
    if dataset.labels is not None and (dataset.labels.ndim == TABLE_AXES) != wide:
        shape = _shape_text(dataset.labels.shape)
        raise InputError(
            f"labels of {dataset.source} must have a row per item, not {shape}"
            if wide
            else f"labels of {dataset.source} must have shape [n], not {shape}; give one class "
            "index per item, values as floats, or name the --metric that they are for"
        )


def _check_several(labels: npt.NDArray[np.int64], dataset: Dataset) -> None:
    """Raise InputError unless labels say of each class whether an item is of it."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 1:
        raise InputError(
            f"labels of {dataset.source} go from {low} to {high}; give 1 for each class that an "
            "item is of, else 0"
        )


def _check_tokens(labels: npt.NDArray[np.int64], dataset: Dataset) -> None:
    """Raise InputError unless labels are tokens, or NO_TOKEN; the outputs tell the largest."""
    if bool(np.any((labels < 0) & (labels != NO_TOKEN))) or not bool(np.any(labels >= 0)):
        raise InputError(
            f"labels of {dataset.source} go from {labels.min()} to {labels.max()}; give token "
            f"numbers from 0 on, and {NO_TOKEN} where there is none"
        )


def _check_targets(targets: npt.NDArray[np.float64], dataset: Dataset, model: Model) -> None:
    """Raise InputError unless labels are finite, and as many per item as the model's values."""
    bad = ~np.isfinite(targets)
    if bad.any():
        raise InputError(
            f"labels of {dataset.source} have {np.count_nonzero(bad)} NaN or infinite values, the "
            f"first in item {int(np.argwhere(bad)[0, 0])}; remove or repair those items"
        )
    ours, sizes = math.prod(targets.shape[1:]), model.outputs[0].shape[1:]
    values = math.prod(size for size in sizes if size is not None)
    if None not in sizes and ours != values:
        raise InputError(
            f"labels of {dataset.source} are {ours} per item, but the model's first output has "
            f"{values}; give as many labels per item as it has values, or classes as integers"
        )


def _check_labels(
    labels: npt.NDArray[np.int64], dataset: Dataset, model: Model, *, vectors: bool
) -> None:
    """Raise InputError unless labels are indices of the model's classes and of the names."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise InputError(
            f"labels of {dataset.source} go down to {low}; give class indices from 0 on"
        )
    shape = model.outputs[0].shape
    known = [len(dataset.classes)] if dataset.classes else []
    if vectors:  # their length says nothing about classes
        known.append(dataset.items)
    elif len(shape) == 2 and (shape[1] or 0) >= 2:  # [batch, at least two classes]
        known.append(shape[1] or 0)
    if known and high >= min(known):
        raise InputError(
            f"labels of {dataset.source} go up to {high} for {min(known)} classes; "
            f"give class indices from 0 to {min(known) - 1}"
        )


def _parts(array: Array, items: int) -> Iterator[slice]:
    """Yield consecutive slices of `items` that take about CHUNK_BYTES of `array` each."""
    item_bytes = max(1, array.nbytes // max(1, len(array)))
    step = max(1, CHUNK_BYTES // item_bytes)
    return (slice(start, start + step) for start in range(0, items, step))


def _spec_text(spec: TensorSpec) -> str:
    """Return the shape of a model input for a message, such as [batch, 1, 28, 28]."""
    first = ["batch" if spec.shape[0] is None else str(spec.shape[0])] if spec.shape else []
    rest = ["any" if size is None else str(size) for size in spec.shape[1:]]
    return f"[{', '.join(first + rest)}]"


def _shape_text(shape: Sequence[int]) -> str:
    """Return the shape of data for a message, such as [n, 28, 28]."""
    return f"[{', '.join(['n', *map(str, shape[1:])])}]"
