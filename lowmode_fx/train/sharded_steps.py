"""Whether an optimizer's steps on sharded weights are its steps on whole ones: only a trial tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lowmode_fx.train.optimizer import make_optimizer
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.train.sharding import sharded_optimizer, whole
from passes.errors import OptionError
from passes.preserve.generators import generator_restorers
from passes.preserve.restorers import restore_all
from passes.spelling import setting

#: Of an optimizer's change of a weight: more than rounding, in bfloat16 too, and less than any other rule differs.
_ROUNDING = 0.02


def check_sharded_steps(parameters: Iterable[Tensor], settings: TrainSettings) -> None:
    """Try two steps of the run's optimizer, with a checkpoint between, on a weight of each shape; all ranks call it.

    Optimizers that look at a weight as a whole (its norm, its rows and columns, its singular values) may fail on shards
    or, worse, take each shard for the whole.

    parameters: the model's, sharded.

    Raises ``OptionError`` for an optimizer that fails or steps otherwise.
    """
    meshes = {parameter.shape: parameter.device_mesh for parameter in parameters if isinstance(parameter, DTensor)}
    restorers = list(generator_restorers())
    try:
        for shape, mesh in meshes.items():
            _check(_Weight(shape, mesh), settings, mesh)
    finally:
        restore_all(restorers)


def _check(weight: _Weight, settings: TrainSettings, mesh: DeviceMesh) -> None:
    expected, error = weight.after_steps(settings, None), None
    try:
        found = weight.after_steps(settings, mesh)
        agree = bool((found - expected).abs().max() <= _ROUNDING * (expected - weight.start).abs().max())
    except Exception as failure:  # torch has as many as it has operators without a rule for shards
        agree, error = False, failure
    if not agree:
        problem = f"needs whole weights on each rank, and {setting('fsdp', True)} shards them"
        hint = "leave out one of the two, or give another, such as sgd or adamw"
        raise OptionError("optimizer", settings.optimizer, problem, hint) from error


class _Weight:
    """A weight to try, and its gradients: the same on all ranks."""

    def __init__(self, shape: torch.Size, mesh: DeviceMesh) -> None:
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(3, *shape, generator=generator).to(mesh.device_type)
        self.start, self.gradients = values[0], values[1:]

    def after_steps(self, settings: TrainSettings, mesh: DeviceMesh | None) -> Tensor:
        """The whole weight after two steps; ``mesh`` shards it."""
        module = nn.Module()
        module.weight = nn.Parameter(self.start.clone())
        if mesh is not None:
            fully_shard(module, mesh=mesh)
        state: dict[str, Any] | None = None
        for gradient in self.gradients:
            optimizer = make_optimizer(module, replace(settings, lr=0.01), self.start.device)
            if state is not None:
                optimizer.load_state_dict(sharded_optimizer(optimizer, state))
            weight = module.get_parameter("weight")
            weight.grad = gradient.clone()
            if isinstance(weight, DTensor):
                weight.grad = distribute_tensor(gradient, weight.device_mesh, weight.placements)
            optimizer.step()
            state = whole(optimizer.state_dict())
        done: Tensor = whole(module.get_parameter("weight").detach())
        return done
