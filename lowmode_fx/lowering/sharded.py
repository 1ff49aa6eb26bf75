"""Models whose layers FSDP2 has sharded: their graphs are made from an unsharded twin without values.

A sharded layer gathers its weights in hooks that need a whole training step around them, so it can't be traced. Graphs
refer to parameters by path, so the twin's graphs also fit the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lowmode_fx.lowering.ladder import Ladder, Rung
from passes import bind_graph

_FSDP = "torch.distributed.fsdp"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on any of its modules."""
    return any(map(_is_fsdp, model.modules()))


def unsharded_twin(model: nn.Module) -> nn.Module:
    """A module like ``model`` with unsharded parameters without values, and without the hooks that gather them."""
    return _twin(model, {})


def over(ladder: Ladder, model: nn.Module) -> Any:
    """The same ladder over ``model``, whose twin it was made from."""
    full = bind_graph(model, ladder.full.graph, f"{type(model).__name__}Full")
    rungs: tuple[Rung, ...] = tuple(rung.over(model, full, {}) for rung in ladder.rungs)
    return type(ladder)(model, full, rungs, ladder.inputs, ladder.live)


def _is_fsdp(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" and kind.__module__.startswith(_FSDP) for kind in type(module).__mro__)


def _twin(module: nn.Module, known: dict[int, Any]) -> nn.Module:
    if id(module) in known:
        found: nn.Module = known[id(module)]
        return found
    # fully_shard inserts its own class before the module's.
    kind = type(module).__mro__[2] if _is_fsdp(module) else type(module)
    twin: Any = known.setdefault(id(module), object.__new__(kind))
    twin.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers"):
        twin.__dict__[name] = {key: _whole(value, known) for key, value in module.__dict__[name].items()}
    for name in _HOOKS:
        hooks = module.__dict__[name]
        twin.__dict__[name] = type(hooks)((key, hook) for key, hook in hooks.items() if not _gathers(hook))
    children = module._modules.items()
    twin.__dict__["_modules"] = {key: None if child is None else _twin(child, known) for key, child in children}
    made: nn.Module = twin
    return made


def _gathers(hook: Any) -> bool:
    while hasattr(hook, "__wrapped__"):
        hook = hook.__wrapped__
    return str(getattr(hook, "__module__", "")).startswith(_FSDP)


def _whole(tensor: Tensor | None, known: dict[int, Any]) -> Tensor | None:
    if tensor is None:
        return None
    if id(tensor) not in known:
        if isinstance(tensor, nn.Parameter):
            device = tensor.to_local().device if isinstance(tensor, DTensor) else tensor.device
            whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            known[id(tensor)] = nn.Parameter(whole, tensor.requires_grad)
        else:
            known[id(tensor)] = tensor.detach().clone()
    found: Tensor = known[id(tensor)]
    return found
