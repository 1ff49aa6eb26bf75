"""Copies of a model's buffers for low steps, so that whatever a forward does to them is undone afterwards."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from passes.preserve import same_items
from passes.preserve.restorers import restore_all
from passes.preserve.values import value_restorers
from passes.torch_internals import version_of

Registry = dict[str, Tensor | None]


class Shadows:
    """One copy of each buffer, the same tensor in every step, as compiled code requires of its inputs."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, str], Tensor] = {}
        self._pairs = _Pairs([], [])

    @contextlib.contextmanager
    def in_place(self, modules: Sequence[nn.Module], *, refresh: bool = True) -> Iterator[None]:
        """Inside, the copies replace the model's buffers; ``refresh`` first makes them equal to those.

        Buffers that a forward registers, reassigns or deletes are restored too. Those of TorchScript, which can't be
        replaced, get their values back.
        """
        registries: list[Registry] = []
        scripted: list[Tensor] = []
        for module in modules:
            if isinstance(module, torch.jit.ScriptModule):
                scripted += module.buffers(recurse=False)
            else:
                registries.append(module._buffers)
        values = value_restorers(scripted)
        held = [dict(registry) for registry in registries]
        buffers = [buffer for registry in registries for buffer in registry.values() if buffer is not None]
        if not self._pairs.are_of(buffers):
            self._pairs = _Pairs(buffers, self._copies_of(registries))
        if refresh:
            self._pairs.refresh()
        copies = iter(self._pairs.copies)
        for registry in registries:
            for name, buffer in registry.items():
                if buffer is not None:
                    registry[name] = next(copies)
        try:
            yield
        finally:
            for registry, before in zip(registries, held, strict=True):
                if registry or before:
                    registry.clear()
                    registry.update(before)
            restore_all(values)

    def _copies_of(self, registries: Sequence[Registry]) -> list[Tensor]:
        """A copy of each buffer in turn; a buffer that two modules share has one copy."""
        shared: dict[int, Tensor] = {}
        copies: list[Tensor] = []
        for registry in registries:
            for name, buffer in registry.items():
                if buffer is not None:
                    if id(buffer) not in shared:
                        shared[id(buffer)] = self._copy((id(registry), name), buffer)
                    copies.append(shared[id(buffer)])
        return copies

    def _copy(self, key: tuple[int, str], buffer: Tensor) -> Tensor:
        copy = self._copies.get(key)
        if copy is None or not _alike(copy, buffer):
            with torch.inference_mode(False):  # later steps may train with the copy
                copy = self._copies[key] = buffer.detach().clone().requires_grad_(buffer.requires_grad)
        return copy


class _Pairs:
    """Buffers with their copies, and the version of each when it was last refreshed."""

    def __init__(self, buffers: list[Tensor], copies: list[Tensor]) -> None:
        self.buffers, self.copies = buffers, copies
        self._seen: list[Any] = [None] * len(buffers)

    def are_of(self, buffers: list[Tensor]) -> bool:
        return same_items(buffers, self.buffers) and all(map(_alike, self.copies, buffers))

    def refresh(self) -> None:
        """Make the copies equal to the buffers.

        If neither copy nor buffer was written to since, the copy is written below autograd: a backward pass that still
        needs its values finds them. (Values may differ even so, if they were written in that way.)
        """
        groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for buffer, copy, seen in zip(self.buffers, self.copies, self._seen, strict=True):
            unwritten = seen == _versions(buffer, copy) and None not in seen
            into, source = groups[buffer.dtype, buffer.device]
            into.append(copy.data if unwritten else copy)
            source.append(buffer)
        with torch.no_grad():
            for into, source in groups.values():
                torch._foreach_copy_(into, source)
        self._seen = list(map(_versions, self.buffers, self.copies))


def _versions(buffer: Tensor, copy: Tensor) -> tuple[int | None, ...]:
    return buffer.data_ptr(), version_of(buffer), version_of(copy)


def _alike(copy: Tensor, buffer: Tensor) -> bool:
    return (
        copy.shape == buffer.shape
        and copy.dtype == buffer.dtype
        and copy.device == buffer.device
        and type(copy) is type(buffer)
    )
