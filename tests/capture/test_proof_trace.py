"""A proof computes nothing and leaves nothing behind."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from proof_oracle import CHANNELS, Small
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from traced import traced

from lowmode_fx.capture.proof import prove
from passes import bind_graph
from passes.torch_internals import is_fake

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.zeros(2, 3, 8, 8)


def test_no_operator_runs_on_real_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.GroupNorm(2, 4))
    graph = traced(model, IMAGES, "fx").graph_module
    ran: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            if not any(map(is_fake, tensors)) and any(each.numel() > 1 for each in tensors):
                ran.add(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        assert prove(model, graph, (IMAGES,)).holds
    assert ran <= {"aten.detach.default", "aten.is_set_to.default"}  # another handle on the same memory


def test_images_of_a_terabyte_take_no_time() -> None:
    model = Small()
    graph = traced(model, IMAGES, "fx").graph_module
    images = torch.zeros(1).expand(4096, 3, 4096, 4096)
    proof = prove(model, graph, (images,))
    assert proof.holds
    assert proof.seconds < 2


class Everything(Small):
    """It has all that a forward may change, and changes it."""

    log: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("centre", torch.zeros(CHANNELS, 1, 1))
        self.count, self.recent, self.by_name = 0, deque([1], maxlen=4), {"nested": [1]}
        self.of_python, self.of_numpy = random.Random(1), np.random.default_rng(1)
        self.of_torch = torch.Generator().manual_seed(1)

    def between(self, maps: Tensor) -> Tensor:
        self.steps += 1
        self.centre = self.centre * 0.9 + maps.detach().mean((0, 2, 3))[:, None, None]
        self.count += 1
        self.recent.append(self.count)
        self.by_name["nested"].append(self.count)
        self.norm.eval()
        self.log.append(1)
        self.left = maps
        self.body.weight.data = self.body.weight.data * 2
        torch.manual_seed(3)
        noise = random.random() + np.random.rand() + self.of_python.random() + self.of_numpy.random()
        return maps * window(maps.shape[2]) * torch.rand(1, generator=self.of_torch) + noise


@functools.cache
def window(side: int) -> Tensor:
    return torch.ones(side)


def everything(kept: list[Tensor]) -> Everything:
    model = Everything()
    model.body.register_forward_hook(lambda module, args, output: kept.append(output))
    model.register_full_backward_hook(lambda *_: None)
    return model


def state_of(model: Everything, kept: list[Tensor]) -> list[Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    attributes = [{name: id(value) for name, value in vars(module).items()} for module in model.modules()]
    return [
        {name: (id(each), each._version, each.data_ptr(), each.requires_grad) for name, each in tensors.items()},
        {name: each.tolist() for name, each in tensors.items()},
        [each.grad for each in model.parameters()],
        attributes,
        (model.count, list(model.recent), model.by_name["nested"][:], list(model.log), len(kept)),
        [module.training for module in model.modules()],
        [list(module._forward_hooks) + list(module._backward_hooks) for module in model.modules()],
        (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        (model.of_python.getstate(), str(model.of_numpy.bit_generator.state), model.of_torch.get_state().tolist()),
        (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), window.cache_info().currsize),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_everything_stays_as_it_was(fails: bool) -> None:
    kept: list[Tensor] = []
    model = everything(kept)
    graph = bind_graph(model, traced(Small(), IMAGES, "fx").graph_module.graph, "Graph")
    images = torch.zeros(2, 5, 8, 8) if fails else IMAGES
    before = state_of(model, kept)
    proof = prove(model, graph, (images,))
    assert not proof.holds
    assert proof.difference.startswith("not provable") == fails
    assert state_of(model, kept) == before
    assert type(window(8)) is Tensor


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_callers_contexts_do_not_matter(context: Callable[[], Any]) -> None:
    model = Small()
    graph = traced(model, IMAGES, "fx").graph_module
    with context():
        proof = prove(model, graph, (IMAGES,))
        assert proof.holds, proof.difference
