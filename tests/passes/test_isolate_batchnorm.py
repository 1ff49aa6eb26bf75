"""Norms in low-mode: batch statistics for the images, running statistics left to full-mode (invariant 5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, ModePair, build_pair
from passes.isolate_batchnorm import isolated_norm

KEEP = {"kernel_ratio": 1}  # the resolution alone, so that values are easy to write down


def with_norm(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3, padding=1), norm=norm))


def build(model: nn.Module, batchnorm: Any = "isolate", **options: Any) -> ModePair:
    return build_pair(model, torch.zeros(4, 3, 12, 12), LowModeConfig(batchnorm=batchnorm, **KEEP), **options)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}


def normalised(x: Tensor, eps: float, dims: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + eps).sqrt()


class FunctionalNorm(nn.Module):
    """A norm written as a function, with its buffers under any names."""

    def __init__(self, call: Callable[..., Tensor], names: tuple[str, str] = ("running_mean", "running_var")) -> None:
        super().__init__()
        self.register_buffer(names[0], torch.zeros(4))
        self.register_buffer(names[1], torch.ones(4))
        self.weight, self.bias = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4))
        self.names, self.call = names, call

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = (getattr(self, name) for name in self.names)
        return self.call(x, mean, variance, self.weight, self.bias, self.training)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "positional": lambda x, m, v, w, b, training: F.batch_norm(x, m, v, w, b, training, 0.1, 1e-3),
    "keywords": lambda x, m, v, w, b, training: F.batch_norm(
        x, running_var=v, running_mean=m, bias=b, weight=w, eps=1e-3, training=training
    ),
    "torch.native_batch_norm": lambda x, m, v, w, b, training: torch.native_batch_norm(
        x, w, b, m, v, training, 0.1, 1e-3
    )[0],
    "torch.batch_norm": lambda x, m, v, w, b, training: torch.batch_norm(x, w, b, m, v, training, 0.1, 1e-3, False),
}


def affine(norm: Any, x: Tensor) -> Tensor:
    return x * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5


NORMS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "momentum=None": lambda: nn.BatchNorm2d(4, momentum=None),
    "no affine": lambda: nn.BatchNorm2d(4, affine=False),
    "a subclass": lambda: type("Mine", (nn.BatchNorm2d,), {})(4),
    "BatchNormAct2d": lambda: BatchNormAct2d(4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    **{f"F.batch_norm, {name}": lambda call=call: FunctionalNorm(call) for name, call in FUNCTIONS.items()},
}


every_norm = pytest.mark.parametrize(
    "name", [pytest.param(name) if name == "momentum=None" else name for name in NORMS]
)


@every_norm
def test_low_mode_leaves_every_buffer_alone_and_full_mode_updates_them(name: str, images: Tensor) -> None:
    model = with_norm(NORMS[name]())
    pair = build(model)
    assert [change.site for change in pair.report.of("isolate_batchnorm").changes] == ["norm"]
    before = state(model)
    assert before
    pair.low(images).sum().backward()
    assert changed(model, before) == set()
    pair.full(images)
    assert changed(model, before) == updated_by(name, before)


def updated_by(name: str, buffers: dict[str, Tensor]) -> set[str]:
    """torch's instance norms have a counter that nothing counts with."""
    return {buffer for buffer in buffers if name != "InstanceNorm2d" or "num_batches" not in buffer}


@every_norm
def test_low_mode_computes_what_the_norm_computes(name: str, images: Tensor) -> None:
    model = with_norm(NORMS[name]())
    pair = build(model)
    found = pair.low(images)
    expected = model(images)  # in train mode; the batch's own statistics
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(found.sin().sum(), parameters),
        torch.autograd.grad(expected.sin().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every_norm
def test_share_updates_them_in_both(name: str, images: Tensor) -> None:
    model = with_norm(NORMS[name]())
    pair = build(model, "share")
    before = state(model)
    pair.low(images)
    assert changed(model, before) == updated_by(name, before)
    with pytest.raises(KeyError):
        pair.report.of("isolate_batchnorm")


def test_the_values_are_those_of_the_formula(images: Tensor) -> None:
    model = with_norm(nn.BatchNorm2d(4, eps=0.01))
    nn.init.uniform_(model.norm.weight)
    nn.init.uniform_(model.norm.bias)
    expected = affine(model.norm, normalised(model.conv(images), 0.01))
    torch.testing.assert_close(build(model).low(images), expected, rtol=1e-5, atol=1e-5)


def test_share_counts_batches_and_moves_the_mean_by_its_momentum(images: Tensor) -> None:
    model = with_norm(nn.BatchNorm2d(4, momentum=0.25))
    pair = build(model, "share")
    pair.low(images)
    pair.low(images)
    assert model.norm.num_batches_tracked.item() == 2
    expected = 0.4375 * model.conv(images).mean((0, 2, 3))  # 0.25 + 0.75 · 0.25
    torch.testing.assert_close(model.norm.running_mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("conv", "norm", "sides"),
    [(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), 1), (nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), 3)],
    ids=["1-D", "3-D"],
)
def test_other_dimensions(conv: nn.Module, norm: nn.Module, sides: int) -> None:
    model = nn.Sequential(conv, norm)
    pair = build_pair(model, torch.zeros(2, 3, *[8] * sides), LowModeConfig(**KEEP))
    before = state(model)
    images = torch.randn(2, 3, *[4] * sides)
    torch.testing.assert_close(pair.low(images), normalised(conv(images), 1e-5, (0, *range(2, sides + 2))))
    assert changed(model, before) == set()


# Frozen norms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batchnorm", ["isolate", "share"])
@pytest.mark.parametrize("name", [name for name in NORMS if "F." not in name])
def test_a_frozen_norm_stays_frozen_in_both_modes(name: str, batchnorm: str, images: Tensor) -> None:
    model = with_norm(NORMS[name]())
    model.norm.eval()
    model.norm.running_mean.uniform_(-1, 1)
    model.norm.running_var.uniform_(0.5, 2)
    pair = build(model, batchnorm)
    assert not model.norm.training and model.training
    before = state(model)
    expected = model.norm(model.conv(images))
    assert not torch.allclose(expected, with_batch_statistics(model, images))
    assert torch.equal(pair.low(images), expected)
    assert torch.equal(pair.full(images), expected)
    assert changed(model, before) == set()


def with_batch_statistics(model: Any, images: Tensor) -> Tensor:
    return normalised(model.conv(images), 1e-5)


def test_a_norm_that_is_frozen_after_the_pair_was_built(images: Tensor) -> None:
    model = with_norm(nn.BatchNorm2d(4))
    pair = build(model)
    model.norm.eval()
    assert torch.equal(pair.low(images), model.norm(model.conv(images)))


def test_a_frozen_functional_norm_keeps_its_statistics(images: Tensor) -> None:
    model = with_norm(FunctionalNorm(FUNCTIONS["positional"]))
    model.norm.eval()
    model.norm.running_mean.uniform_(-1, 1)
    pair = build(model)
    assert pair.report.of("isolate_batchnorm").changes == ()
    assert torch.equal(pair.low(images), model.norm(model.conv(images)))


# Odd ones ------------------------------------------------------------------------------------------------------------


def test_a_functional_norm_whose_buffers_have_other_names(images: Tensor) -> None:
    model = with_norm(FunctionalNorm(FUNCTIONS["positional"], ("mean", "variance")))
    pair = build(model)
    before = state(model)
    pair.low(images)
    assert changed(model, before) == set()


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False), nn.Identity()])
def test_a_norm_without_running_statistics_is_no_site(norm: nn.Module, images: Tensor) -> None:
    model = with_norm(norm)
    pair = build(model)
    assert pair.report.of("isolate_batchnorm").changes == ()
    assert torch.equal(pair.low(images), model(images))


def test_norms_inside_a_module_that_is_not_traced(images: Tensor) -> None:
    class Block(nn.Sequential):
        pass

    model = with_norm(Block(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    pair = build(model, leaf_modules=[Block])
    before = state(model)
    found = pair.low(images)
    assert changed(model, before) == set()
    torch.testing.assert_close(found, model(images), rtol=1e-5, atol=1e-5)


def test_a_norm_called_twice_is_isolated_in_both_places(images: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(self.norm(x)))

    model = Twice()
    pair = build(model)
    pair.low(images)
    assert model.norm.num_batches_tracked.item() == 0
    pair.full(images)
    assert model.norm.num_batches_tracked.item() == 2


def test_a_pair_traced_by_export(images: Tensor) -> None:
    model = with_norm(nn.BatchNorm2d(4))
    pair = build(model, front_end="export")
    before = state(model)
    found = pair.low(images)
    assert changed(model, before) == set()
    torch.testing.assert_close(found, model(images), rtol=1e-5, atol=1e-5)


def test_a_wrong_input_is_still_an_error() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        isolated_norm(nn.BatchNorm2d(4), torch.zeros(2, 4))


def test_a_single_value_per_channel_is_still_an_error() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        isolated_norm(nn.BatchNorm2d(4), torch.zeros(1, 4, 1, 1))


@pytest.mark.parametrize("put", ["hook", "forward"])
def test_what_is_put_on_a_norm_counts_in_low_mode(put: str) -> None:
    norm = nn.BatchNorm2d(4)
    pair = build(with_norm(norm))
    images = torch.randn(4, 3, 6, 6)
    plain, before = pair.low(images), state(pair.model)
    if put == "hook":
        norm.register_forward_hook(lambda module, args, output: output * 2)
    else:
        norm.forward = lambda maps: 2 * nn.BatchNorm2d.forward(norm, maps)  # type: ignore[method-assign]
    assert torch.equal(pair.low(images), 2 * plain)
    assert not changed(pair.model, before)
