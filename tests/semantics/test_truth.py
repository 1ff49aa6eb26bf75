"""The truth of low-mode against networks that are written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import checkpoint

from semantics.check import default_dtype
from semantics.habit import photos
from semantics.habits.fixed_kernels import SobelAsAFrozenLayer, SobelInABuffer, SobelMadeInForward
from semantics.skeleton import CHANNELS, Small, conv
from semantics.truth import LowTruth


@pytest.fixture(autouse=True)
def doubles() -> Any:
    torch.manual_seed(0)
    with default_dtype(torch.float64):
        yield


def halved(images: Tensor) -> Tensor:
    return images[:, :, ::2, ::2]


def truth_of(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    """What the truth returns, and the gradients of its sum."""
    outputs = LowTruth(model.train(), halved, (0,))(images)
    return outputs, gradients(model, outputs)


def gradients(model: nn.Module, outputs: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    outputs.square().sum().backward()
    return {name: value.grad for name, value in model.named_parameters()}


def by_hand(model: Any, images: Tensor, between: Callable[[Tensor], Tensor] = lambda maps: maps) -> Tensor:
    """``Small`` in low-mode: the stem as it is, the body's kernel as the mean of its taps, the batch's statistics."""
    maps = between(F.relu(F.conv2d(halved(images), model.stem.weight, model.stem.bias, padding=1)))
    maps = F.conv2d(maps, model.body.weight.mean((2, 3), keepdim=True), model.body.bias)
    maps = F.batch_norm(maps, None, None, model.norm.weight, model.norm.bias, training=True)
    return model.head(F.relu(maps).mean((2, 3)))


def assert_by_hand(model: nn.Module, between: Callable[[Tensor], Tensor] = lambda maps: maps) -> None:
    images = photos(0)
    right = by_hand(model, images, between)
    right_gradients = gradients(model, right)
    ours, our_gradients = truth_of(model, images)
    torch.testing.assert_close(ours, right)
    torch.testing.assert_close(our_gradients, right_gradients)


def test_low_mode_by_hand() -> None:
    assert_by_hand(Small())


@pytest.mark.parametrize("made", [SobelInABuffer, SobelAsAFrozenLayer, SobelMadeInForward])
def test_untrained_kernels_keep_their_size(made: type[Small]) -> None:
    rows, columns = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    edges = torch.eye(CHANNELS)[:, :, None, None] * torch.outer(rows, columns)
    model = made()
    bias = model.edges.bias if isinstance(getattr(model, "edges", None), nn.Module) else None
    assert_by_hand(model, lambda maps: torch.tanh(F.conv2d(maps, edges, bias, padding=1)))


class Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        maps, weight = ctx.saved_tensors
        of_maps = torch.nn.grad.conv2d_input(maps.shape, weight, grad, padding=1)
        return of_maps, torch.nn.grad.conv2d_weight(maps, weight.shape, grad, padding=1)


def test_a_convolution_inside_a_function_stays_whole() -> None:
    class Inside(Small):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv(bias=False)

        def between(self, maps: Tensor) -> Tensor:
            return Whole.apply(maps, self.inner.weight)

    model = Inside()
    assert_by_hand(model, lambda maps: F.conv2d(maps, model.inner.weight, padding=1))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_are_low_too(reentrant: bool) -> None:
    class Checkpointed(Small):
        def __init__(self) -> None:
            super().__init__()
            self.block = conv()

        def between(self, maps: Tensor) -> Tensor:
            return checkpoint.checkpoint(self.block, maps, use_reentrant=reentrant)

    model = Checkpointed()
    assert_by_hand(model, lambda maps: F.conv2d(maps, model.block.weight.mean((2, 3), keepdim=True), model.block.bias))


def test_the_general_convolution_is_one_too() -> None:
    class General(Small):
        def __init__(self) -> None:
            super().__init__()
            self.block = conv()

        def between(self, maps: Tensor) -> Tensor:
            sides = [1, 1]
            return torch.convolution(maps, self.block.weight, self.block.bias, sides, sides, sides, False, [0, 0], 1)

    model = General()
    assert_by_hand(model, lambda maps: F.conv2d(maps, model.block.weight.mean((2, 3), keepdim=True), model.block.bias))


def test_a_low_step_leaves_its_gradients_and_no_more() -> None:
    class Busy(Small):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.seen = 0, []
            self.register_buffer("mean", torch.zeros(()))

        def between(self, maps: Tensor) -> Tensor:
            self.calls += 1
            self.seen.append(maps)
            self.mean += maps.detach().mean()
            return maps

    model = Busy().train()
    truth = LowTruth(model, halved, (0,))
    truth(photos(0)).sum().backward()
    assert (model.calls, model.seen, float(model.mean), int(model.norm.num_batches_tracked)) == (0, [], 0.0, 0)
    assert truth.shadow.calls == 1 and truth.shadow.body.weight is model.body.weight
    assert all(value.grad is not None for value in model.parameters())


def test_draws_move_on() -> None:
    class Drawing(Small):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, images: Tensor) -> Tensor:
            return torch.rand(3, generator=self.generator)

    truth = LowTruth(Drawing().train(), halved, (0,))
    assert not torch.equal(truth(photos(0)), truth(photos(0)))


def test_in_eval_mode_it_is_the_model() -> None:
    model = Small().eval()
    images = photos(0)
    assert torch.equal(LowTruth(model, halved, (0,))(images), model(images))
