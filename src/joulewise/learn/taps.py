"""Listen to what inner layers of a network give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from joulewise.core.errors import PassError

__all__ = ["Taps"]


class Taps:
    """What chosen layers of a module give between `listen` and `take`.

    Args:
        module: the network.
        names: of its layers, as submodules.

    Raises:
        PassError: there is no such layer.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._listens = False
        self._heard: dict[str, list[Tensor]] = {name: [] for name in names}
        try:
            layers = [module.get_submodule(name) for name in names]
        except AttributeError as error:
            raise PassError(f"the model has no layer of that name: {error}") from error
        self._hooks = [
            layer.register_forward_hook(self._hook(name))
            for name, layer in zip(names, layers, strict=True)
        ]

    def listen(self) -> None:
        """Begin to listen."""
        self._listens = True

    def take(self) -> tuple[Tensor, ...]:
        """Return what each layer gave, one call after the other joined, and listen no longer."""
        found = tuple(torch.cat(self._heard[name]) for name in self._names)
        self._listens = False
        for heard in self._heard.values():
            heard.clear()
        return found

    def close(self) -> None:
        """Leave the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[object, object, Tensor], None]:
        def hear(_layer: object, _inputs: object, output: Tensor) -> None:
            if self._listens:
                self._heard[name].append(output)

        return hear
