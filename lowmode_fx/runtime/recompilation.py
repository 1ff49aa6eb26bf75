"""Recompilation of modes: warns what has changed, and limits how often it happens."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lowmode_fx.lowering.mode import Mode
from passes.torch_internals import compiled_graphs, failed_guard

#: Recompilations of one mode before it runs uncompiled. torch's own limit is 8.
MOST = 6
#: Steps in a row that recompile a mode for a value that changes between them, before it runs uncompiled.
MOST_IN_A_ROW = 2
#: In torch 2.11 old compiled code keeps running when weights are unfrozen, and leaves them without gradients.
NOTICES_FREEZING = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 14)


class RecompilationGuard:
    """Watches the compiled modes of a model: each is compiled once, unless the model changes."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seen: dict[Mode, dict[str, Any]] = {}
        self._again: Counter[Mode] = Counter()
        self._in_a_row: Counter[Mode] = Counter()
        self._trained: dict[Mode, list[bool]] = {}
        self._told: set[Mode] = set()

    def run(self, mode: Mode, compiled: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Call ``compiled``; warn if that recompiled the mode."""
        before = compiled_graphs()
        result = compiled(*args, **kwargs)
        if compiled_graphs() != before:
            self._note(mode)
        else:
            self._in_a_row[mode] = 0
        return result

    def must_not_run(self, mode: Mode) -> bool:
        """Whether a mode must run uncompiled: it was recompiled too often, or torch would not detect a change."""
        return self._again[mode] >= MOST or (not NOTICES_FREEZING and self._trains_others(mode))

    def _trains_others(self, mode: Mode) -> bool:
        now = [each.requires_grad for each in self._model.parameters()]
        if now == self._trained.setdefault(mode, now):
            return False
        if mode not in self._told:
            self._told.add(mode)
            warnings.warn(
                f"requires_grad of some weights changed since {mode}-mode was compiled, which this torch does "
                "not detect: the mode falls back to uncompiled steps, which are slower; upgrade torch to recompile it",
                stacklevel=4,
            )
        return True

    def _note(self, mode: Mode) -> None:
        now = {**_state(self._model), **_attributes(self._model)}
        before, self._seen[mode] = self._seen.get(mode), now
        if before is None:
            return
        self._again[mode] += 1
        guard = failed_guard()
        changed = [word for word, value in now.items() if value != before.get(word) and _may_be(word, now, guard)]
        what = changed[0] if changed else "a value that the code reads"
        if isinstance(now.get(what), _PLAIN):
            self._in_a_row[mode] += 1
            if self._in_a_row[mode] == MOST_IN_A_ROW:
                self._again[mode] = MOST
                warnings.warn(
                    f"{mode}-mode runs uncompiled from now on: {what} changes from step to step, and compiled code is "
                    "for one value; keep it in a tensor, such as a buffer, to compile this mode",
                    stacklevel=5,
                )
                return
        left = MOST - self._again[mode]
        after = f"after {left} more the mode runs" if left else "from now on the mode runs"
        warnings.warn(
            f"{mode}-mode was recompiled (compilation {self._again[mode] + 1}): {what} changed; make such changes "
            f"before training: {after} uncompiled",
            stacklevel=5,
        )


#: Attributes that compiled code holds as constants.
_PLAIN = (int, float, str)
_TORCHS = frozenset(vars(nn.Module()))


def _attributes(model: nn.Module) -> dict[str, int | float | str]:
    """The attributes of all layers that are plain values, by their path."""
    return {
        f"{path}.{name}".removeprefix("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, _PLAIN) and name not in _TORCHS
    }


def _may_be(word: str, state: dict[str, Any], guard: str) -> bool:
    """Whether the change of ``word`` may be what failed dynamo's guard; that of an attribute has its name."""
    name = word.rpartition(".")[2]
    return not isinstance(state[word], _PLAIN) or re.search(rf"\b{re.escape(name)}\b", guard) is not None


def _state(model: nn.Module) -> dict[str, Any]:
    """The state that compiled code depends on, described in words, most likely changes first."""

    def tensors() -> Iterator[torch.Tensor]:
        yield from model.parameters()
        yield from model.buffers()

    return {
        "requires_grad of the weights": [each.requires_grad for each in model.parameters()],
        "train mode of the layers": [module.training for module in model.modules()],
        "the model's dtype": [each.dtype for each in tensors()],
        "the model's device": [each.device for each in tensors()],
        "the layers of the model": [(name, id(module)) for name, module in model.named_modules()],
        "the memory format of the weights": [each.stride() for each in model.parameters()],
        "torch's default dtype": torch.get_default_dtype(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    }
