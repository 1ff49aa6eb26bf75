"""Checkpointed parts are computed again in the mode in which they were computed first."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from live_checks import COMPILED, assert_equal_steps, assert_unmoved, buffers, low_images, pair_of, step
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from lowmode_fx.lowering.live import LiveLowering, recompute
from lowmode_fx.lowering.live.recompute import LEFT_TO_PYTHON

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = (2, 3, 16, 16)


class Block(nn.Module):
    """A convolution, a norm that counts, a pool that low-mode may drop, and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2), 0.3, self.training)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(Block(), Block()), Block()
        self.how = "plain"

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.how == "plain":
            x = self.blocks(x)
        elif self.how == "checkpoint_sequential":
            x = checkpoint_sequential(self.blocks, 2, x, use_reentrant=False)
        elif self.how == "timm":
            x = checkpoint_seq(self.blocks, x)
        elif self.how == "keywords":
            x = checkpoint(lambda maps, blocks: blocks(maps), x, blocks=self.blocks, use_reentrant=False)
        else:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=self.how == "reentrant")
        return self.head(x).mean((2, 3))


WAYS = ["reentrant", "not reentrant", "checkpoint_sequential", "timm", "keywords"]


def net(**options: Any) -> tuple[Net, LiveLowering, Tensor]:
    torch.manual_seed(0)
    model = Net()
    pair = pair_of(model, *IMAGES, **options)
    # A reentrant checkpoint without an input that needs a gradient has none to give.
    return model, LiveLowering(pair), low_images(pair).requires_grad_()


@pytest.mark.parametrize("drop_maxpools", ["none", "stem"])
@pytest.mark.parametrize("how", WAYS)
def test_gradients_are_those_without_checkpointing(how: str, drop_maxpools: str) -> None:
    model, live, images = net(drop_maxpools=drop_maxpools)
    expected = step(model, live.run, images)
    model.how, before = how, buffers(model)
    for _ in range(2):
        assert_equal_steps(step(model, live.run, images), expected)
        assert_unmoved(model, before)
    assert live.notes == []


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_compiled(how: str) -> None:
    """The compiled step is held against the uncompiled one; dropout would draw otherwise."""
    torch._dynamo.reset()
    model, live, images = net(drop_maxpools="stem")
    for block in model.modules():
        if isinstance(block, Block):
            block.eval()
            block.norm.train()
    model.how, before = how, buffers(model)
    expected = step(model, live.run, images)
    live.callable = torch.compile(live.forward, backend="aot_eager", dynamic=False, fullgraph=not LEFT_TO_PYTHON)
    for _ in range(2):
        assert_equal_steps(step(model, live.run, images), expected, **COMPILED)
        assert_unmoved(model, before)


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_full_mode_is_not_touched(how: str) -> None:
    """Also where its forward is checkpointed between low ones: torch's functions are its own again."""
    model, live, images = net()
    model.how = how
    known = torch.utils.checkpoint.checkpoint
    keep = torch.utils.checkpoint._checkpoint_without_reentrant_generator
    expected = step(model, model, images)
    low = step(model, live.run, images)
    assert torch.utils.checkpoint._checkpoint_without_reentrant_generator is keep
    assert torch.utils.checkpoint.checkpoint is known
    assert "apply" not in vars(torch.utils.checkpoint.CheckpointFunction)
    assert_equal_steps(step(model, model, images), expected)
    assert not torch.equal(low[0][0], expected[0][0])


@pytest.mark.parametrize("left_to_python", [False, True])
def test_what_a_user_has_put_in_the_place_of_checkpoint_stays(
    left_to_python: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = functools.partial(checkpoint, use_reentrant=False)
    monkeypatch.setattr(recompute, "LEFT_TO_PYTHON", left_to_python)
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", mine)
    _, live, images = net()
    for _ in range(2):
        live.run(images)
        assert torch.utils.checkpoint.checkpoint is mine


def test_a_low_forward_waits_while_a_full_one_runs_and_goes_back() -> None:
    """Each is recomputed in its own mode, in whatever order the backward passes come."""
    model, live, images = net()
    model.how = "not reentrant"
    for module in model.modules():
        module.training = isinstance(module, nn.BatchNorm2d)
    expected = [step(model, forward, images)[1] for forward in (live.run, model)]
    low, full = live.run(images), model(images)
    for outputs, gradients in ((full, expected[1]), (low, expected[0])):
        model.zero_grad()
        outputs.sin().sum().backward()
        for name, value in model.named_parameters():
            assert torch.equal(value.grad, gradients[name])
