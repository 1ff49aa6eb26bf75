"""Copies of a model's buffers that low-mode runs on, so that whatever a forward does to them is gone afterwards."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class _Shadow:
    """A buffer's copy. ``seen``: the buffer's memory and version, and the copy's own, when it was last refreshed."""

    copy: Tensor
    seen: tuple[int, int, int] = (-1, -1, -1)


class Shadows:
    """One copy for each buffer and each tensor that a module holds as a plain attribute.

    The copies stay the same tensors from step to step, as compiled code wants its inputs.
    """

    def __init__(self) -> None:
        self._shadows: dict[tuple[int, str], _Shadow] = {}

    @contextlib.contextmanager
    def in_place(self, modules: Sequence[nn.Module], *, refresh: bool = True) -> Iterator[None]:
        """Inside, the copies stand where the model's buffers do; ``refresh`` makes them equal to those first.

        What a forward registers, reassigns or deletes is undone as well.
        """
        registries = [module._buffers for module in modules]
        held = [dict(registry) for registry in registries]
        self._put_copies(registries, refresh)
        try:
            yield
        finally:
            for registry, buffers in zip(registries, held, strict=True):
                registry.clear()
                registry.update(buffers)

    def _put_copies(self, registries: Sequence[dict[str, Tensor | None]], refresh: bool) -> None:
        shared: dict[int, _Shadow] = {}
        pairs: list[tuple[Tensor, _Shadow]] = []
        for registry in registries:
            for name, buffer in registry.items():
                if buffer is None:
                    continue
                shadow = shared.get(id(buffer))
                if shadow is None:  # a buffer that two modules share stays one
                    shadow = shared[id(buffer)] = self._shadow((id(registry), name), buffer)
                    pairs.append((buffer, shadow))
                registry[name] = shadow.copy
        if refresh:
            _refresh(pairs)

    def _shadow(self, key: tuple[int, str], buffer: Tensor) -> _Shadow:
        shadow = self._shadows.get(key)
        if shadow is None or not _alike(shadow.copy, buffer):
            shadow = self._shadows[key] = _Shadow(buffer.detach().clone().requires_grad_(buffer.requires_grad))
        return shadow


def _refresh(pairs: Sequence[tuple[Tensor, _Shadow]]) -> None:
    copies: dict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for buffer, shadow in pairs:
        seen = (buffer.data_ptr(), buffer._version, shadow.copy._version)
        # A copy that nobody has written to, of a buffer that nobody has, is written below autograd: a backward pass
        # that waits for its values still finds them. Values may yet differ, where they were written so themselves.
        target = shadow.copy.data if seen == shadow.seen else shadow.copy.detach()
        into, source = copies[buffer.dtype, buffer.device]
        into.append(target)
        source.append(buffer.detach())
    for into, source in copies.values():
        torch._foreach_copy_(into, source)
    for buffer, shadow in pairs:
        shadow.seen = (buffer.data_ptr(), buffer._version, shadow.copy._version)


def _alike(copy: Tensor, buffer: Tensor) -> bool:
    kinds = ((type(each), each.shape, each.dtype, each.device) for each in (copy, buffer))
    return next(kinds) == next(kinds)
