"""FSDP2 for a run: the model's blocks and the rest are sharded over the ranks; checkpoints hold whole tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from lowmode_fx.lowering.blocks import find_blocks


def shard(net: nn.Module, model: nn.Module, device: torch.device, ranks: int) -> None:
    """Shard the parameters over the ranks, block by block.

    net: what is called in training; ``model`` itself or a view of it.
    """
    mesh = init_device_mesh(device.type, (ranks,))
    for path in find_blocks(model):
        fully_shard(model.get_submodule(path), mesh=mesh)
    # After an evaluation, which no backward follows, the root would keep its whole parameters, which warming up and
    # checkpoints would take for the model's.
    fully_shard(net, mesh=mesh, reshard_after_forward=True)


def whole(state: Any) -> Any:
    """A state (dicts and lists of tensors) with whole tensors in place of shards; all ranks call it together."""
    return tree_map_only(DTensor, lambda value: value.full_tensor(), state)


def sharded_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, sharded as the parameter of its shape is."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    local = value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements)


def sharded_weights(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole ``state_dict()``, sharded as the model is now."""
    now = model.state_dict()
    return {name: sharded_as(now[name], value) if name in now else value for name, value in weights.items()}


def sharded_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A whole state of an optimizer, sharded as its parameters are now."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=False))
    entries = {
        number: {
            name: sharded_as(by_number[number], value) if isinstance(value, Tensor) and number in by_number else value
            for name, value in entry.items()
        }
        if isinstance(entry, dict)
        else entry
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}
