"""What is compiled a second time: told, with what has changed, and bounded."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lowmode_fx.lowering.mode import Mode
from passes.torch_internals import compiled_graphs

#: Compilations of one mode after its first; then it runs uncompiled. torch's own limit of recompilations is 8.
MOST = 6
#: Older compiled code runs on where weights are unfrozen, and leaves them without gradients: seen in torch 2.11.
NOTICES_FREEZING = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 14)


class RecompilationGuard:
    """Watches the compiled modes of a model: each is compiled once, unless the model is changed meanwhile."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seen: dict[Mode, dict[str, Any]] = {}
        self._again: Counter[Mode] = Counter()
        self._trained: dict[Mode, list[bool]] = {}
        self._told: set[Mode] = set()

    def run(self, mode: Mode, compiled: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Call ``compiled``; warn where that compiled once more than the mode's first time."""
        before = compiled_graphs()
        result = compiled(*args, **kwargs)
        if compiled_graphs() != before:
            self._note(mode)
        return result

    def must_not_run(self, mode: Mode) -> bool:
        """Whether a mode has to run uncompiled: it was compiled too often, or torch would not notice a change."""
        return self._again[mode] >= MOST or (not NOTICES_FREEZING and self._trains_others(mode))

    def _trains_others(self, mode: Mode) -> bool:
        now = [each.requires_grad for each in self._model.parameters()]
        if now == self._trained.setdefault(mode, now):
            return False
        if mode not in self._told:
            self._told.add(mode)
            warnings.warn(
                f"other weights train (requires_grad) than when {mode}-mode was compiled, which this torch would not "
                "notice: it runs uncompiled, slower",
                stacklevel=4,
            )
        return True

    def _note(self, mode: Mode) -> None:
        now = _state(self._model)
        before, self._seen[mode] = self._seen.get(mode), now
        if before is None:
            return
        self._again[mode] += 1
        what = next((word for word, value in now.items() if value != before[word]), "something that the code asks for")
        left = MOST - self._again[mode]
        after = f"after {left} more it runs" if left else "from now on it runs"
        warnings.warn(
            f"{mode}-mode was compiled again, for the {self._again[mode] + 1}. time, as {what} has changed; each takes "
            f"the time of a compilation, and {after} uncompiled",
            stacklevel=5,
        )


def _state(model: nn.Module) -> dict[str, Any]:
    """What compiled code relies on, in words, the likeliest first."""

    def tensors() -> Iterator[torch.Tensor]:
        yield from model.parameters()
        yield from model.buffers()

    return {
        "which weights train (requires_grad)": [each.requires_grad for each in model.parameters()],
        "which layers are in train mode": [module.training for module in model.modules()],
        "the model's dtype": [each.dtype for each in tensors()],
        "the model's device": [each.device for each in tensors()],
        "the layers of the model": [(name, id(module)) for name, module in model.named_modules()],
        "the memory format of the weights": [each.stride() for each in model.parameters()],
        "torch's default dtype": torch.get_default_dtype(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    }
