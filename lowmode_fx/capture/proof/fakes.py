"""Fake tensors in place of a model's: same sides, strides, dtype, device and sharing of memory, but no values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lowmode_fx.capture.proof.complaints import NotProvable
from lowmode_fx.capture.proof.recorder import Recorder
from lowmode_fx.capture.proof.results import Results
from lowmode_fx.capture.proof.values import Key, Values
from passes.torch_internals import as_parameter, is_fake
from passes.trees import tree_leaves


class Names:
    """Names of the tensors that exist before a run, by their storages; the same on both sides."""

    def __init__(self, model: nn.Module) -> None:
        self._names: dict[int, tuple[torch.UntypedStorage, str]] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.of(tensor, name)
        self._registered = set(self._names)
        for path, module in model.named_modules():
            for attribute, value in vars(module).items():
                if isinstance(value, Tensor):
                    self.of(value, f"{path}.{attribute}" if path else attribute)

    def of(self, tensor: Tensor, name: str = "") -> str:
        storage = tensor.untyped_storage()
        name = name or f"tensor {len(self._names)} that the model holds"
        return self._names.setdefault(id(storage), (storage, name))[1]

    def knows(self, tensor: Tensor) -> bool:
        return id(tensor.untyped_storage()) in self._names

    def is_registered(self, tensor: Tensor) -> bool:
        """Whether it shares memory with a parameter or buffer of the model."""
        return id(tensor.untyped_storage()) in self._registered


class Fakes:
    """The fakes of one side, each made once; ``recorder`` names their values."""

    def __init__(self, mode: Any, results: Results, values: Values, names: Names, source_lines: bool) -> None:
        self.mode = mode
        self.recorder = Recorder(values, results, self.of_unknown, source_lines)
        self._results = results
        self._names = names
        self._made: dict[int, tuple[Tensor, Tensor]] = {}  # the real one is kept, so that ids are not reused
        self._bases: dict[int, Tensor] = {}

    def of(self, tensor: Tensor) -> Tensor:
        """The fake of a tensor that the model holds. Raises ``NotProvable`` if a tensor of its kind can't be faked."""
        if id(tensor) not in self._made:
            fake = self._known_number(tensor) if _is_counter(tensor) else self._make(tensor)
            self._made[id(tensor)] = (tensor, fake)
            if not self.recorder.knows(fake):
                self.recorder.assign(fake, "held", self._names.of(tensor))
        return self._made[id(tensor)][1]

    def of_unknown(self, tensor: Tensor) -> Tensor:
        """The fake of a real tensor that an operator gets as argument: the model's own, or a constant."""
        if is_fake(tensor):
            raise NotProvable(f"a tensor of shape {tuple(tensor.shape)} is made outside of torch's operators")
        if tensor.requires_grad or self._names.is_registered(tensor):
            # It could get a gradient, and its replacement (by ``.to()``, for example) would not be seen.
            name = self._names.of(tensor) if self._names.is_registered(tensor) else f"a tensor of {tuple(tensor.shape)}"
            raise NotProvable(f"{name} is not read from the model's registries, but for example from a constant")
        if self._names.knows(tensor):
            return self.of(tensor)
        if id(tensor) not in self._made:
            fake = self._make(tensor)
            self._made[id(tensor)] = (tensor, fake)
            self.recorder.assign_constant(fake, tensor)
        return self._made[id(tensor)][1]

    def new(self, like: Tensor, *expression: Key) -> Tensor:
        """A dense fake with ``like``'s sides, in new memory, that holds the value of ``expression``."""
        fake = self._results.empty(like.shape, like.stride(), like.dtype, like.device, dense=True)
        self.recorder.assign(fake, *expression)
        return fake

    def _make(self, tensor: Tensor) -> Tensor:
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
            kind = type(tensor).__name__ if tensor.layout is torch.strided else str(tensor.layout)
            raise NotProvable(f"the model holds a {kind}, which can't be faked")
        fake, trainable = self._in_storage(tensor), tensor.requires_grad and tensor.is_leaf
        return as_parameter(fake, trainable) if isinstance(tensor, nn.Parameter) else fake.requires_grad_(trainable)

    def _in_storage(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._bases:
            whole = storage.nbytes() == tensor.numel() * tensor.itemsize
            shape, strides = tuple(tensor.shape), tensor.stride()
            if not whole:
                shape, strides = (storage.nbytes() // tensor.itemsize,), (1,)
            self._bases[id(storage)] = self._results.empty(shape, strides, tensor.dtype, tensor.device)
            if whole:
                return self._bases[id(storage)]
        base = self._bases[id(storage)]
        if base.dtype is not tensor.dtype:
            raise NotProvable(f"tensors of {base.dtype} and {tensor.dtype} share memory")
        with torch.no_grad():
            return base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _known_number(self, tensor: Tensor) -> Tensor:
        # A norm without momentum divides by its counter: a number that is made under the mode stays known.
        number = tensor.item()
        with self.mode:
            return torch.tensor(number, dtype=tensor.dtype, device=tensor.device)


def fake_inputs(inputs: Any, fakes: Fakes, step: int) -> Any:
    """``inputs``, lists and mappings of tensors and other values, with fakes of this step instead of the tensors."""
    memo: dict[int, Any] = {}
    for place, tensor in enumerate(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)):
        fake = fakes.new(tensor, "input", f"input {place}", step)
        memo[id(tensor)] = fake.requires_grad_(tensor.requires_grad)
    return copy.deepcopy(inputs, memo)


def _is_counter(tensor: Tensor) -> bool:
    return tensor.ndim == 0 and tensor.dtype in (torch.int64, torch.int32, torch.bool) and not tensor.is_meta
