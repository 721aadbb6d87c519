"""Models that are not ONNX yet: PyTorch modules and Hugging Face folders, written as ONNX.

Everything after this works on the ONNX file. What was written is compared with the module on real
items, because exporters err; weights are read without unpickling.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.core.child import Child
from joulewise.core.errors import InputError, MissingExtraError, ProgramError, UsageError, one_line
from joulewise.learn.session import open_session
from joulewise.workload.data import FUNCTION, call_user_function, load_arrays

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["as_onnx", "export_module", "export_reference", "gives_vectors", "load_weights"]

SAMPLE_ITEMS = 2
"""Items that the module is traced with; two, as sizes of one are taken for fixed."""

CHECK_ITEMS = 8

SAME_RATIO = 1e-3
"""Largest relative L2 difference between module and file; see joulewise.learn.network."""

OPSET = 18

TIMEOUT_S = 1800.0


def as_onnx(
    model: object,
    data: str,
    folder: Path,
    weights: Path | None = None,
    beside: Sequence[str] = (),
) -> Path:
    """Return an ONNX file of a model in any of the forms in which a user may have it.

    Args:
        model: the path of a ``.onnx`` file, which is returned as it is; a
            ``torch.nn.Module``; ``package.module:factory``, called without arguments; or a folder
            of Hugging Face (config.json and model.safetensors).
        data: items for it, as a ``.npz`` archive or a Python function; their names are those of
            the arguments of the module's ``forward``.
        folder: where ``model.onnx`` is written.
        weights: of a factory's module: a ``.safetensors`` file, or a checkpoint that
            ``torch.load(weights_only=True)`` reads.
        beside: arrays among the data that are none of its inputs.

    Raises:
        UsageError: the reference has none of these forms, or weights are given for one that has
            its own.
        InputError: the model, the weights or the data cannot be read, or do not fit each other.
        MissingExtraError: torch or transformers is needed and not installed.
    """
    if _is_module(model):
        return _export_here(model, data, folder, beside)
    reference = str(model)
    factory = FUNCTION.fullmatch(reference) is not None and not Path(reference).exists()
    if weights is not None and not factory:
        raise UsageError(
            f"--weights is for a factory like package.module:function; {reference} has its own"
        )
    if not factory and not (Path(reference) / "config.json").is_file():
        return Path(reference)
    target = folder / "model.onnx"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with Child("joulewise.learn.exporter", {"HF_HUB_OFFLINE": "1"}) as child:
            try:
                child.ask(
                    "export", timeout_s=TIMEOUT_S, reference=reference, data=data,
                    weights=None if weights is None else str(weights), target=str(target),
                    beside=list(beside),
                )  # fmt: skip
            except ProgramError as error:
                raise InputError(str(error)) from error
    return target


def gives_vectors(model: object) -> bool:
    """Return whether a model is a Hugging Face folder with a pooling layer: it embeds sentences."""
    if not isinstance(model, (str, Path)) or FUNCTION.fullmatch(str(model)):
        return False
    return _pooling(Path(model)).is_file()


def export_reference(
    reference: str, data: str, weights: Path | None, target: Path, beside: Sequence[str] = ()
) -> None:
    """Write what a factory or a Hugging Face folder gives as ONNX; see `as_onnx`."""
    match = FUNCTION.fullmatch(reference)
    if match is not None and not Path(reference).exists():
        module = call_user_function(match["module"], match["name"])
        if not _is_module(module):
            raise InputError(f"{reference} returned {type(module).__name__}, not a torch module")
        if weights is not None:
            load_weights(module, weights)
    else:
        module = _hugging_face(Path(reference))
    export_module(module, load_arrays(data, beside), target)


def export_module(
    module: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]], target: Path
) -> None:
    """Write a torch module as ONNX with a free batch axis, and compare the two.

    Args:
        module: put into evaluation mode.
        arrays: real items by argument name, each [n, ...]; of a single array the name is free.
        target: the file.

    Raises:
        InputError: the module cannot be traced, or the file does not compute the same.
        MissingExtraError: a package of the extra torch is not installed.
    """
    torch = _torch()
    module = module.eval()
    tensors = _arguments(module, arrays)
    sample = {name: value[:SAMPLE_ITEMS] for name, value in tensors.items()}
    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        try:
            outputs = _flat(module(**{name: x[:CHECK_ITEMS] for name, x in tensors.items()}))
            torch.onnx.export(
                module,
                (),
                target,
                kwargs=sample,
                input_names=list(sample),
                dynamic_shapes={name: {0: batch} for name in sample},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except (Exception, SystemExit) as error:  # whatever the user's module raises
            target.unlink(missing_ok=True)
            raise InputError(f"the module cannot be written as ONNX: {one_line(error)}") from error
    _compare(target, tensors, outputs)


def _is_module(model: object) -> bool:
    """Return whether this is a torch module, without importing torch."""
    return any(
        kind.__module__.startswith("torch.nn") and kind.__name__ == "Module"
        for kind in type(model).__mro__
    )


def _export_here(
    model: Any,  # noqa: ANN401 - a torch module
    data: str,
    folder: Path,
    beside: Sequence[str],
) -> Path:
    target = folder / "model.onnx"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        export_module(model, load_arrays(data, beside), target)
    return target


def _torch() -> Any:  # noqa: ANN401 - the package, imported late
    try:
        import onnxscript  # noqa: F401 - the exporter needs it and says so only half-way
        import torch
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "torch") from error
    return torch


def _arguments(
    module: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, torch.Tensor]:
    """Return the first items by argument of ``forward``; real numbers as float32."""
    import torch

    signature = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [each for each in signature if each.kind in positional]
    needed = [each.name for each in known if each.default is inspect.Parameter.empty]
    if len(arrays) == 1 and len(needed) == 1:
        arrays = {needed[0]: next(iter(arrays.values()))}
    unknown = sorted(set(arrays) - {each.name for each in known})
    missing = sorted(set(needed) - set(arrays))
    if unknown or missing:
        names = ", ".join(repr(each.name) for each in known)
        raise InputError(
            f"the data have {', '.join(map(repr, arrays))}, but the module takes {names}; name the "
            "arrays like its arguments"
        )
    ordered = [each.name for each in known if each.name in arrays]
    found = {}
    for name in ordered:
        values = np.asarray(arrays[name][:CHECK_ITEMS])
        whole = values.dtype.kind == "i" or values.dtype in (np.uint16, np.uint32)
        found[name] = torch.from_numpy(values.astype(np.int64 if whole else np.float32))
        if values.dtype == bool:
            found[name] = torch.from_numpy(values)
    if min(len(x) for x in found.values()) < SAMPLE_ITEMS:
        raise InputError(f"the data hold fewer than {SAMPLE_ITEMS} items; give more")
    return found


def _flat(output: Any) -> list[np.ndarray[Any, Any]]:  # noqa: ANN401 - whatever it returns
    """Return the tensors of an output in the order in which the exporter writes them."""
    import torch
    from torch.utils import _pytree

    leaves = _pytree.tree_leaves(output)
    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _compare(
    target: Path, tensors: Mapping[str, torch.Tensor], outputs: list[np.ndarray[Any, Any]]
) -> None:
    session = open_session(target)
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: tensors[name].numpy() for name in names})
    for value, ours, theirs in zip(session.get_outputs(), found, outputs, strict=False):
        length = float(np.linalg.norm(theirs)) or 1.0
        off = float(np.linalg.norm(ours - theirs)) / length if ours.shape == theirs.shape else 1.0
        if not off <= SAME_RATIO:
            target.unlink()
            raise InputError(
                f"the ONNX file of the module computes {value.name} differently (by "
                f"{100 * off:.2g} %); simplify its forward, or export it yourself"
            )


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a module; nothing is unpickled."""
    import torch

    if not path.is_file():
        raise InputError(f"there are no weights at {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickles that are refused, damaged files of all kinds
        raise InputError(
            f"cannot read the weights {path} without running code from it "
            f"({one_line(error)}); save the module's state_dict() as .safetensors"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"the weights {path} do not fit the module: {words}") from error


def _hugging_face(folder: Path) -> nn.Module:
    """Return the model in a folder of Hugging Face; with a pooling layer, its embeddings."""
    _torch()
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "huggingface") from error

    transformers.logging.set_verbosity_error()
    names = json.loads((folder / "config.json").read_text()).get("architectures") or ["AutoModel"]
    kind = getattr(transformers, names[0], transformers.AutoModel)
    try:
        model = kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            attn_implementation="eager",
        )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise InputError(f"cannot open {folder}: {one_line(error)}") from error
    pooling = _pooling(folder)
    pooled = pooling.is_file() and json.loads(pooling.read_text()).get("pooling_mode_mean_tokens")
    return _encoder(model, pooled=bool(pooled), normalised=(folder / "2_Normalize").exists())


def _pooling(folder: Path) -> Path:
    """Return where sentence-transformers says how tokens are pooled."""
    return folder / "1_Pooling" / "config.json"


def _encoder(model: Any, *, pooled: bool, normalised: bool) -> nn.Module:  # noqa: ANN401
    """Return a module that takes what a tokenizer gives and returns one tensor."""
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor | None = None,
        ) -> torch.Tensor:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            output = self.model(
                input_ids=input_ids, attention_mask=attention_mask, **types, return_dict=True
            )
            if "logits" in output:
                return output.logits
            hidden = output.last_hidden_state
            if pooled:
                mask = attention_mask[..., None].to(hidden.dtype)
                hidden = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return nn.functional.normalize(hidden, dim=-1) if normalised else hidden

    return Encoder()
