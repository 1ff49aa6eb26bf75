"""Low-mode run live beside a low graph, bit for bit."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowmode_fx import LowModeConfig, ModePair, NoEffectWarning, build_pair
from lowmode_fx.lowering.live import LiveLowering


def pair_of(model: nn.Module, *shape: int, front_end: Any = "auto", leaf_modules: Any = (), **options: Any) -> ModePair:
    """A pair in train mode for images of ``shape``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        return build_pair(
            model.train(), torch.zeros(shape), LowModeConfig(**options), front_end=front_end, leaf_modules=leaf_modules
        )


def low_images(pair: ModePair) -> Tensor:
    """Images of low-mode's size, alike in each call."""
    return torch.randn(pair.report.low_input_shape, generator=torch.Generator().manual_seed(3))


def step(model: nn.Module, forward: Any, *args: Any) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Outputs, and gradients by name, of a forward and a backward pass that draw alike in each call."""
    torch.manual_seed(7)
    model.zero_grad()
    outputs = [leaf for leaf in tree_leaves(forward(*args)) if isinstance(leaf, Tensor)]
    sum(output.sin().sum() for output in outputs).backward()  # type: ignore[union-attr]
    gradients = {name: None if value.grad is None else value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    return [output.detach() for output in outputs], gradients


#: torch before 2.12 compiles full-mode to code that rounds otherwise, too.
COMPILED = {"rtol": 0.0, "atol": 0.0 if torch.__version__ >= "2.12" else 1e-5}


def assert_equal_steps(found: Any, expected: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    (outputs, gradients), (others, their_gradients) = found, expected
    torch.testing.assert_close(outputs, others, rtol=rtol, atol=atol)
    assert gradients.keys() == their_gradients.keys()
    for name, gradient in gradients.items():
        other = their_gradients[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, other, rtol=rtol, atol=atol)


def buffers(model: nn.Module) -> dict[str, tuple[int, Tensor]]:
    """Each buffer's identity, and a copy of its values."""
    return {name: (id(value), value.clone()) for name, value in model.named_buffers()}


def assert_unmoved(model: nn.Module, before: dict[str, tuple[int, Tensor]]) -> None:
    now = buffers(model)
    assert now.keys() == before.keys()
    for name, (identity, value) in now.items():
        assert identity == before[name][0], name
        assert torch.equal(value, before[name][1]), name


def assert_does_what_the_graph_does(model: nn.Module, *shape: int, **options: Any) -> LiveLowering:
    """One low step live and one of ``pair.low``: equal outputs and gradients, and no buffer moves in either."""
    pair = pair_of(model, *shape, **options)
    live, images, before = LiveLowering(pair), low_images(pair), buffers(model)
    found = step(model, live.run, images)
    if options.get("batchnorm") != "share":
        assert_unmoved(model, before)
    else:
        for name, (_, value) in before.items():
            model.get_buffer(name).copy_(value)
    assert_equal_steps(found, step(model, pair.low, images))
    assert live.notes == []
    return live
