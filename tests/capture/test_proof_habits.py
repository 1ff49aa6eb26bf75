"""What people write in ``forward`` and around it: where a graph trains otherwise, the proof says so, and where."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from proof_oracle import CHANNELS, Small, trains_alike
from torch import Tensor, nn
from torch.utils import checkpoint
from traced import traced

from lowmode_fx.capture.proof import prove

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATOR = np.random.default_rng(0)
SEEN: list[int] = []


@dataclass(frozen=True)
class Habit:
    """``words``: of the difference that is to be found. ``around``: what the training loop runs the forward in.

    ``alike``: three steps by the graph come to the same; what it lacks would show elsewhere.
    """

    make: Callable[[], nn.Module]
    words: str
    front_end: Any = "fx"
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    alike: bool = False


HABITS: dict[str, Habit] = {}


def habit(words: str, **options: Any) -> Callable[[Any], Any]:
    """Registers a class of modules, or a function that makes one."""

    def register(make: Any) -> Any:
        HABITS[make.__name__] = Habit(make, words, **options)
        return make

    return register


# -- contexts --------------------------------------------------------------------------------------------------------


@habit("gradient['stem.weight']: in the graph only")
class FrozenUnderNoGrad(Small):
    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(images)


@habit("gradient['stem.weight']: in the graph only")
class DecoratedWithNoGrad(Small):
    @torch.no_grad()
    def trunk(self, images: Tensor) -> Tensor:
        return F.relu(self.stem(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.body(self.trunk(images))).mean((2, 3)))


@habit("gradient['stem.weight']: in the graph only")
class GradModeByFlag(Small):
    def features(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(False):
            maps = self.stem(images)
        return self.norm(self.body(maps)).mean((2, 3))


@habit("gradient['stem.weight']: in the graph only")
class GradModeSwitchedOffAndOn(Small):
    def features(self, images: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        maps = self.stem(images)
        torch.set_grad_enabled(True)
        return self.norm(self.body(maps)).mean((2, 3))


@habit("torch's grad mode")
class GradModeLeftOff(Small):
    def forward(self, images: Tensor) -> Tensor:
        output = super().forward(images)
        torch.set_grad_enabled(False)
        return output


@habit("aten.conv2d (line")
class TeacherInInferenceMode(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.inference_mode():
            target = self.body(maps)
        return maps + target.clone()


@habit("aten._to_copy (line")
class AutocastBlock(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.body(maps).float()


def autocast() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@habit("autocast entered, 1 deep, in the model, with nothing more in the graph", around=autocast)
class Float32Island(Small):
    def forward(self, images: Tensor) -> Tensor:
        pooled = self.features(images)
        with torch.autocast("cpu", enabled=False):
            return self.head(pooled.float() * 3)


@habit("aten.mul.Tensor (line", around=autocast)
class AsksForAutocast(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * 0.5 if torch.is_autocast_enabled("cpu") else maps


@habit("aten._to_copy (line")
class SavedTensorsPacked(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.half(), lambda packed: packed.float()):
            return torch.tanh(maps)


# -- backward passes -------------------------------------------------------------------------------------------------


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return torch.sign(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (value,) = ctx.saved_tensors
        return gradient * (value.abs() < 1)


@habit("gradient['body.weight']: aten.mul.Tensor (line")
class BinaryWeights(Small):
    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, Sign.apply(self.body.weight), padding=1)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


@habit("aten.neg (line")
class GradientReversal(Small):
    def between(self, maps: Tensor) -> Tensor:
        return Reversed.apply(maps)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        return maps * torch.sigmoid(maps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (maps,) = ctx.saved_tensors
        gate = torch.sigmoid(maps)
        return gradient * gate * (1 + maps * (1 - gate))


@habit("gradient['stem.weight']: aten.mul.Tensor (line")
class MemoryEfficientSwish(Small):
    def between(self, maps: Tensor) -> Tensor:
        return Swish.apply(maps)


@habit("aten.clamp (line", front_end="export")
class GradientClippedByHook(Small):
    def between(self, maps: Tensor) -> Tensor:
        if maps.requires_grad:
            maps.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
        return maps * 1


# -- draws -----------------------------------------------------------------------------------------------------------


@habit("Python's generator: the state after the step differs")
class UnusedCoin(Small):
    def between(self, maps: Tensor) -> Tensor:
        random.random()
        return maps


@habit("Python's generator: the state after the step differs")
class FactorOfPython(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * random.uniform(0.5, 1.5)


@habit("numpy's generator: the state after the step differs")
class CoinOfNumpy(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * 1.5 if np.random.rand() < -1 else maps


@habit("not provable: aten._local_scalar_dense.default reads a value (line")
class CoinOfTorch(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * 0.5 if torch.rand(1).item() < 0.5 else maps


@habit("not provable: aten._local_scalar_dense.default reads a value (line")
class CoinOfADistribution(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * 0.5 if bool(torch.distributions.Bernoulli(0.5).sample()) else maps


@habit("aten.rand (line", front_end="fx")
class NoiseOfChannels(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * torch.rand(CHANNELS, 1, 1)


@habit("aten.normal (line")
class NoiseInPlace(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * torch.empty(CHANNELS, 1, 1).normal_()


class Seeded(Small):
    def __init__(self) -> None:
        super().__init__()
        self.of_python = random.Random(0)
        self.of_numpy = np.random.default_rng(0)
        self.of_torch = torch.Generator().manual_seed(0)


@habit("of_python.state[1][0]: ")
class OwnGeneratorOfPython(Seeded):
    def between(self, maps: Tensor) -> Tensor:
        return maps * (1 + self.of_python.random())


@habit("of_numpy.state['state']['state']")
class OwnGeneratorOfNumpy(Seeded):
    def between(self, maps: Tensor) -> Tensor:
        return maps * 1.5 if self.of_numpy.random() < -1 else maps


@habit("aten.rand.generator (line")
class OwnGeneratorOfTorch(Seeded):
    def between(self, maps: Tensor) -> Tensor:
        return maps * torch.rand(CHANNELS, 1, 1, generator=self.of_torch)


@habit("test_proof_habits.GENERATOR['state']['state']: ")
class GeneratorOfTheFile(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * 1.5 if GENERATOR.random() < -1 else maps


@habit("aten.rand (line", front_end="export")
class SeededInForward(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return maps * torch.rand(CHANNELS, 1, 1)


# -- buffers ---------------------------------------------------------------------------------------------------------


class Centred(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.linspace(0, 1, CHANNELS)[:, None, None])
        self.centre: Tensor

    def between(self, maps: Tensor) -> Tensor:
        self.move(maps.detach().mean((0, 2, 3))[:, None, None])
        return maps - self.centre

    def move(self, mean: Tensor) -> None:
        raise NotImplementedError


@habit("centre: aten.add.Tensor (line", front_end="export")
class MovedInTheRegistry(Centred):
    def move(self, mean: Tensor) -> None:
        self._buffers["centre"] = self.centre * 0.9 + mean


@habit("aten.mul.Tensor (line")
class Reassigned(Centred):
    def move(self, mean: Tensor) -> None:
        self.centre = 0.9 * self.centre + 0.1 * mean


@habit("is not read from the model's registries", alike=True)
class ReadThroughAView(Small):
    """The view is made once, and stays with the memory that ``.to()`` gives up."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(CHANNELS))

    def between(self, maps: Tensor) -> Tensor:
        return maps * self.scale[:, None, None]


@habit("aten.add.Tensor")
class CountedInABuffer(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def between(self, maps: Tensor) -> Tensor:
        self.steps += 1
        return maps / (self.steps + 1)


@habit("late: in the model only")
class MadeInTheFirstForward(Small):
    def between(self, maps: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(CHANNELS, 1, 1))
        return maps


@habit("centre: requires a gradient in the graph only", alike=True)
class KeptUnderNoGrad(Centred):
    """The graph's buffer holds on to each step's whole tape."""

    def between(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            self.centre.copy_(maps.mean((0, 2, 3))[:, None, None])
        return maps


@habit("aten.roll (line")
class RolledHistory(Centred):
    def move(self, mean: Tensor) -> None:
        self.centre = torch.roll(self.centre, 1, 0)


@habit("teacher.weight")
class MomentumTeacher(Small):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).requires_grad_(False)

    def between(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.body.parameters(), strict=True):
                slow.data = 0.9 * slow.data + 0.1 * fast.data
        return maps + self.teacher(maps)


# -- counters, and what a forward leaves behind ----------------------------------------------------------------------


class Stateful(Small):
    def __init__(self) -> None:
        super().__init__()
        self.count, self.recent, self.tally = 0, deque([0], maxlen=3), Counter()
        self.turns = itertools.cycle([1, 2, 3])


@habit("count: 1 in the model, 0 in the graph")
class CountedInPython(Stateful):
    def between(self, maps: Tensor) -> Tensor:
        self.count += 1
        return maps


@habit("count: 1 in the model, 0 in the graph")
class NumberedForwards(Stateful):
    def between(self, maps: Tensor) -> Tensor:
        self.count = self.count % 7 + 1
        return maps * self.count


@habit("recent[1]: in the model only")
class RecentInADeque(Stateful):
    def between(self, maps: Tensor) -> Tensor:
        self.recent.append(len(self.recent))
        return maps


@habit("tally['forward']: in the model only")
class TalliedByName(Stateful):
    def between(self, maps: Tensor) -> Tensor:
        self.tally["forward"] += 1
        return maps


@habit("turns.")
class InTurns(Stateful):
    def between(self, maps: Tensor) -> Tensor:
        return maps if next(self.turns) else -maps


@habit("CountedOnTheClass.total: 1 in the model, 0 in the graph")
class CountedOnTheClass(Small):
    total = 0

    def between(self, maps: Tensor) -> Tensor:
        type(self).total += 1
        return maps


@habit("test_proof_habits.SEEN[0]: in the model only")
class ListedInTheFile(Small):
    def between(self, maps: Tensor) -> Tensor:
        SEEN.append(1)
        return maps


@habit("penalty: in the model only")
class PenaltyLeftOnTheModel(Small):
    def between(self, maps: Tensor) -> Tensor:
        self.penalty = self.body.weight.square().sum()
        return maps


@habit("side: in the model only")
class ShapeRemembered(Small):
    def between(self, maps: Tensor) -> Tensor:
        self.side = maps.shape[2]
        return maps


# -- constants, modes and weights ------------------------------------------------------------------------------------


@habit("aten.mul.Tensor (line", alike=True)
class FrozenNorm(Small):
    """Right until ``load_state_dict``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("variance", torch.full((CHANNELS, 1, 1), 2.0))

    def between(self, maps: Tensor) -> Tensor:
        return maps * (self.variance * 1.5)


@habit("depth: aten.add.Tensor (line")
class NumberFromABuffer(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("depth", torch.tensor(2))

    def between(self, maps: Tensor) -> Tensor:
        self.depth += 1
        return maps * int(self.depth)


@habit("values: the model reads that of depth", alike=True)
class NumberAskedFor(Small):
    """Right until ``load_state_dict``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("depth", torch.tensor(2))

    def between(self, maps: Tensor) -> Tensor:
        return maps * int(self.depth)


@habit("aten.native_batch_norm (line")
class EvaluatedInForward(Small):
    def between(self, maps: Tensor) -> Tensor:
        return self.norm.eval()(maps)


@habit("aten.renorm (line")
class RenormedThroughData(Small):
    def between(self, maps: Tensor) -> Tensor:
        self.body.weight.data = self.body.weight.data.renorm(2, 0, 0.1)
        return maps


@habit("the graph fails, but not the model")
class RenormedByCopy(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            self.body.weight.copy_(self.body.weight.renorm(2, 0, 0.1))
        return maps


@habit("the graph fails, but not the model")
class ClampedInPlace(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.bias.clamp_(-0.01, 0.01)
        return maps


@habit("not provable: aten._local_scalar_dense raises, and the model goes on")
class CaughtWhereItAsks(Small):
    """The value is there in training, and fake tensors don't have it."""

    def between(self, maps: Tensor) -> Tensor:
        try:
            factor = float(torch.rand(1))
        except Exception:
            factor = 1.0
        return maps * factor


# -- hooks and checkpointing -----------------------------------------------------------------------------------------


@habit("aten.div.Tensor (line")
def pre_hook_of_the_root() -> nn.Module:
    model = Small()
    model.register_forward_pre_hook(lambda module, args: (args[0] / 2,))
    return model


@habit("aten.mul.Tensor (line")
def hook_of_the_root() -> nn.Module:
    model = Small()
    model.register_forward_hook(lambda module, args, output: output * 2)
    return model


@habit("hooks: the forward hook of the model is called once in the model, never in the graph", alike=True)
def hook_that_only_looks() -> nn.Module:
    model = Small()
    model.register_forward_hook(lambda *_: None)
    return model


@habit("kept[0]: in the model only", alike=True)
def features_kept_by_a_hook() -> nn.Module:
    model, kept = Small(), []
    model.body.register_forward_hook(lambda module, args, output: kept.append(output))
    return model


@habit("aten.clamp (line")
def backward_hook() -> nn.Module:
    model = Small()
    model.body.register_full_backward_hook(lambda module, gradients, _: (gradients[0].clamp(-1e-4, 1e-4),))
    return model


@habit("aten.convolution", alike=True)
class Checkpointed(Small):
    """The graph keeps what the model would compute again."""

    def between(self, maps: Tensor) -> Tensor:
        return checkpoint.checkpoint(lambda inner: torch.tanh(self.body(inner)).square(), maps, use_reentrant=False)


@habit("in the model")
class CheckpointedNorm(Small):
    def between(self, maps: Tensor) -> Tensor:
        return checkpoint.checkpoint(lambda inner: self.norm(self.body(inner)), maps, use_reentrant=True)


def outside() -> list[Any]:
    """What habits here change outside of their models."""
    return [GENERATOR.bit_generator.state, list(SEEN), CountedOnTheClass.total]


def put_back(state: list[Any]) -> None:
    GENERATOR.bit_generator.state, SEEN[:], CountedOnTheClass.total = state


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HABITS)
def test_a_habit_whose_graph_trains_otherwise_is_found(name: str) -> None:
    case, start = HABITS[name], outside()
    torch.manual_seed(0)
    model = case.make()
    captured = traced(model, torch.zeros(2, 3, 8, 8), case.front_end)
    torch.set_grad_enabled(True)
    put_back(start)
    proof = prove(model, captured.graph_module, (torch.zeros(2, 3, 8, 8),))
    assert outside() == start
    assert not proof.holds
    assert case.words in proof.difference
    assert "\n" not in proof.difference

    torch.manual_seed(0)
    own = case.make()
    alike = trains_alike(own, model, captured.graph_module, case.around, outside, put_back)
    put_back(start)
    assert alike == case.alike, proof.difference
