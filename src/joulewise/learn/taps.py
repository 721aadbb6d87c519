"""Listen to what inner layers of a network give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from joulewise.core.errors import PassError

__all__ = ["Taps"]


class Taps:
    """What chosen layers of a module gave since it was last asked.

    Args:
        module: the network.
        names: of its layers, as submodules.

    Raises:
        PassError: there is no such layer.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._heard: dict[str, list[Tensor]] = {name: [] for name in names}
        try:
            layers = [module.get_submodule(name) for name in names]
        except AttributeError as error:
            raise PassError(f"the model has no layer of that name: {error}") from error
        self._hooks = [
            layer.register_forward_hook(
                lambda _layer, _inputs, output, heard=self._heard[name]: heard.append(output)
            )
            for name, layer in zip(names, layers, strict=True)
        ]

    def take(self) -> tuple[Tensor, ...]:
        """Return what each layer gave, one call after the other joined, and forget it."""
        found = tuple(torch.cat(self._heard[name]) for name in self._names)
        self.forget()
        return found

    def forget(self) -> None:
        """Forget what the layers gave."""
        for heard in self._heard.values():
            heard.clear()

    def close(self) -> None:
        """Listen no longer."""
        for hook in self._hooks:
            hook.remove()
