"""Live lowering compiled: one compilation a mode, equal to uncompiled, and nothing is lowered twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from live_checks import COMPILED, assert_equal_steps, assert_unmoved, buffers, low_images, pair_of, step
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations

from lowmode_fx import LowModeConfig, ModePair, build_pair
from lowmode_fx.lowering.live import LiveLowering

pytestmark = pytest.mark.usefixtures("one_thread", "nothing_compiled_yet")
IMAGES = (2, 3, 16, 16)


def conv(channels: int = 4, filters: int = 4, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2, **options)


class Stateful(nn.Module):
    """An average in place, a counter, a centre that is reassigned, kernels of every kind, pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.norm = conv(3), conv(4, 4, 5), nn.BatchNorm2d(4)
        self.normed = parametrizations.weight_norm(conv())
        self.first, self.second = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.up, self.head = nn.ConvTranspose2d(4, 4, 5, stride=2), nn.Linear(4, 3)
        for name in ("average", "centre"):
            self.register_buffer(name, torch.zeros(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.body(self.first(F.relu(self.stem(x)))))
        x = self.up(self.second(F.relu(self.normed(x)))).mean((2, 3))
        self.average.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        self.count += 1
        self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
        return self.head(x - self.average - self.centre / self.count)


def mixed_steps(pair: ModePair, full: Callable[..., Any], live: LiveLowering) -> list[Tensor]:
    """Twenty steps of training, two of three in low-mode: outputs, and what the model holds in the end."""
    model: Any = pair.model
    images, optimizer = torch.randn(pair.report.input_shape), torch.optim.SGD(model.parameters(), 0.01)
    found = []
    for number in range(20):
        optimizer.zero_grad()
        before = buffers(model)
        outputs = live.run(pair.downsample(images)) if number % 3 else full(images)
        outputs.sin().sum().backward()
        if number % 3:
            assert_unmoved(model, before)
        optimizer.step()
        found.append(outputs.detach())
    return [*found, *(value.detach().clone() for value in (*model.parameters(), *model.buffers()))]


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (Stateful, "eager"),
        (Stateful, "aot_eager"),
        pytest.param(lambda: torchvision.models.resnet18(num_classes=3), "aot_eager", marks=pytest.mark.slow),
        pytest.param(lambda: timm.create_model("efficientnet_b0"), "aot_eager", marks=pytest.mark.slow),
    ],
)
def test_one_compilation_a_mode_and_the_steps_are_those_of_uncompiled_training(
    make: Callable[[], nn.Module], backend: str
) -> None:
    torch.manual_seed(0)
    model = make()
    pair = pair_of(model, 4, 3, 32, 32, drop_maxpools="stem")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = mixed_steps(pair, model, LiveLowering(pair))
    model.load_state_dict(state)
    live, counters = LiveLowering(pair), [CompileCounterWithBackend(backend) for _ in range(2)]
    options = {"dynamic": False, "fullgraph": True}
    full = torch.compile(model, backend=counters[0], **options)
    live.callable = torch.compile(live.forward, backend=counters[1], **options)
    torch.manual_seed(1)
    found = mixed_steps(pair, full, live)
    assert [counter.frame_count for counter in counters] == [1, 1]
    torch.testing.assert_close(found, expected, **COMPILED)
    assert live.notes == []


class Broken(nn.Module):
    """A forward that dynamo follows in pieces: between them, the mode is met by code that is compiled already."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.last = conv(3), conv(4, 4, 5), parametrizations.weight_norm(conv(4, 4, 5))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        torch._dynamo.graph_break()
        x = F.max_pool2d(self.body(self.pool(x)), 2)
        torch._dynamo.graph_break()
        x = self.last(F.max_pool2d(x, 1))
        torch._dynamo.graph_break()
        return F.conv2d(x, self.body.weight, padding=2).mean((2, 3))


@pytest.mark.parametrize("options", [{}, {"drop_maxpools": "stem"}, {"drop_maxpools": "all", "keep_convs": ["last"]}])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_where_dynamo_leaves_code_to_python(backend: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Broken()
    pair = pair_of(model, *IMAGES, **options)
    live, images, counter = LiveLowering(pair), low_images(pair), CompileCounterWithBackend(backend)
    expected = step(model, live.run, images)
    assert_equal_steps(expected, step(model, pair.low, images))
    live.callable = torch.compile(live.forward, backend=counter, dynamic=False)
    for _ in range(3):
        assert_equal_steps(step(model, live.run, images), expected, **COMPILED)
    assert counter.frame_count == 4
    assert live.notes == []


class Loops(nn.Module):
    """Code that dynamo gives up on, and runs frame by frame: a break on a value, in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = conv(3), nn.Linear(4, 3)
        self.blocks = nn.ModuleList(nn.Sequential(conv(4, 4, 5), nn.MaxPool2d(2)) for _ in range(3))

    def between(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
            if x.abs().mean() < 0.01:
                break
        rows = (self.gate(x.mean((2, 3))).argmax(1) < 3).nonzero()[:, 0]
        if len(rows):
            x = x.index_add(0, rows, self.blocks[0][0](x[rows]))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.between(F.relu(self.stem(x))).mean((2, 3))


@pytest.mark.parametrize("drop_maxpools", ["none", "stem"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_where_dynamo_compiles_frame_by_frame(backend: str, drop_maxpools: str) -> None:
    torch.manual_seed(0)
    model = Loops()
    pair = pair_of(model, *IMAGES, drop_maxpools=drop_maxpools)
    assert pair.report.front_end == "live"
    live, images = LiveLowering(pair), low_images(pair)
    expected = step(model, live.run, images)
    live.callable = torch.compile(live.forward, backend=backend, dynamic=False)
    for _ in range(3):
        assert_equal_steps(step(model, live.run, images), expected, **COMPILED)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_part_that_the_user_has_compiled(backend: str) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(conv(3), nn.Sequential(conv(4, 4, 5), nn.BatchNorm2d(4), nn.ReLU()), conv(4, 4, 7))
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    low, full = step(model, live.run, images), step(model, model, images)
    model[1].compile(backend=backend, dynamic=False)
    for _ in range(2):
        assert_equal_steps(step(model, live.run, images), low, **COMPILED)
        assert_equal_steps(step(model, model, images), full, **COMPILED)


def test_a_part_that_dynamo_is_told_to_skip() -> None:
    torch.manual_seed(0)

    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = conv(3), conv()

        @torch.compiler.disable
        def apart(self, x: Tensor) -> Tensor:
            return F.max_pool2d(self.body(x), 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.apart(F.relu(self.stem(x))).mean((2, 3))

    model = Left()
    pair = pair_of(model, *IMAGES, drop_maxpools="all")
    live, images = LiveLowering(pair), low_images(pair)
    expected = step(model, live.run, images)
    assert_equal_steps(expected, step(model, pair.low, images))
    live.callable = torch.compile(live.forward, backend="aot_eager", dynamic=False)
    assert_equal_steps(step(model, live.run, images), expected, **COMPILED)


def test_resized_heads_and_restored_maps() -> None:
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.act = conv(3), conv(), nn.ReLU()
            self.flat, self.head = nn.Flatten(), nn.Linear(4 * 8 * 8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            maps = self.act(self.body(self.stem(x)))
            return {"maps": maps, "classes": self.head(self.flat(F.max_pool2d(maps, 2)))}

    torch.manual_seed(0)
    model = Segmenter()
    pair = build_pair(model, torch.zeros(IMAGES), LowModeConfig(adapt_head=True, restore_output=True))
    live, images = LiveLowering(pair), low_images(pair)
    expected = step(model, live.run, images)
    assert_equal_steps(expected, step(model, pair.low, images))
    live.callable = torch.compile(live.forward, backend="eager", dynamic=False, fullgraph=True)
    assert_equal_steps(step(model, live.run, images), expected, **COMPILED)


def test_hooks_of_the_model_are_called() -> None:
    model = nn.Sequential(conv(3), conv())
    pair = pair_of(model, *IMAGES)
    live, images, seen = LiveLowering(pair), low_images(pair), []
    model.register_forward_hook(lambda module, args, output: output * 2)
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    expected = live.run(images)
    torch.testing.assert_close(expected, 2 * pair.low(images))
    live.callable = torch.compile(live.forward, backend="eager", dynamic=False)
    torch.testing.assert_close(live.run(images), expected, **COMPILED)
    assert len(seen) == 2
