"""Batches as loops have them: which are one, what the model is called with, and what the criterion is given."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import Classifier, Network, full_gradients, images, labels, low_twin
from torch import Tensor

from lowmode_fx import LowModeConfig, Mode, build_ladder, build_pair, downsample, gradient_agreement
from lowmode_fx.capture.inputs import ModelInputs, model_inputs
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.lowering.networks import network
from lowmode_fx.tuning.agreement import step_gradient
from lowmode_fx.tuning.batches import read_batches
from lowmode_fx.tuning.costs import StepKind, step_cost
from lowmode_fx.tuning.trials import Probe
from tests.runtime.recorder import Recorder

X, Y, D = images(8), labels(8), images(8, seed=1)[:, :1]


class Plain(Network):
    def forward(self, x: Tensor, flag: bool = False) -> Tensor:
        return self.logits(x)


class Depth(Network):
    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        return self.logits(x) + depth.mean((1, 2, 3))[:, None]


EXAMPLES: dict[str, tuple[Network, Any]] = {
    "plain": (Plain(), X),
    "depth": (Depth(), (X, D)),
    "depth by name": (Depth(), {"depth": D, "x": X}),
    "loss inside": (Classifier(), {"pixel_values": X, "labels": Y}),
}


def call_of(name: str) -> tuple[ModelInputs, Network]:
    model, example = EXAMPLES[name]
    return model_inputs(model, example, "x" if "depth" in name else None)[0], model


@pytest.mark.parametrize(
    ("name", "batch", "targets"),
    [
        ("plain", (X, Y), [Y]),
        ("plain", [X, Y], [Y]),
        ("plain", ((X,), Y), [Y]),
        ("plain", ({"x": X}, {"y": Y}), [{"y": Y}]),
        ("plain", (X, None), [None]),
        ("plain", [(X, Y), (X, Y)], [Y, Y]),
        ("plain", ([X, Y], [X, Y]), [Y, Y]),
        ("plain", iter([(X, Y)] * 3), [Y, Y, Y]),
        ("depth", ((X, D), Y), [Y]),
        ("depth", [[X, D], Y], [Y]),
        ("depth", ((X, D), (Y, Y, Y)), [(Y, Y, Y)]),
        ("depth", [((X, D), Y), ((X, D), Y)], [Y, Y]),
        ("depth", [((X, D), Y)], [Y]),
        ("depth by name", ((X, D), Y), [Y]),
        ("depth by name", ({"x": X, "depth": D}, Y), [Y]),
        ("depth by name", [({"x": X, "depth": D}, Y)] * 2, [Y, Y]),
        ("loss inside", {"labels": Y, "pixel_values": X}, [None]),
        ("loss inside", ({"labels": Y, "pixel_values": X}, Y), [Y]),
        ("loss inside", [{"labels": Y, "pixel_values": X}] * 2, [None, None]),
        ("loss inside", ((X, Y), None), [None]),
        ("loss inside", [((X, Y), None)] * 2, [None, None]),
    ],
)
def test_one_batch_and_several(name: str, batch: Any, targets: list[Any]) -> None:
    inputs, model = call_of(name)
    calls = read_batches(batch, inputs, model)
    assert len(calls) == len(targets)
    for call, target in zip(calls, targets, strict=True):
        assert call.targets is target or call.targets == target
        assert call.leaves[inputs.images[0]] is X
        args, kwargs = call.of(lambda *args, **kwargs: (args, kwargs))
        assert (len(args), list(kwargs)) == (len(inputs.call(call.leaves)[0]), list(inputs.call(call.leaves)[1]))


@pytest.mark.parametrize(
    ("name", "batch", "message"),
    [
        ("plain", [], r"^batch is empty; give \(inputs, targets\), or several of them$"),
        ("plain", (X, Y, Y), r"^a batch is of type Tensor; give \(inputs, targets\), or a mapping of all keywords if"),
        ("plain", [(X, Y, Y)], r"^a batch is of type tuple of 3; give \(inputs, targets\), or a mapping of all key"),
        ("plain", 3, r"^a batch is of type int; give \(inputs, targets\)"),
        ("plain", {"image": X}, r"^Plain\.forward\(x, flag=False\) does not take these arguments: missing a required"),
        ("depth", (X, Y), r"^Depth\.forward\(x, depth\) does not take these arguments: missing a required argument: '"),
        ("loss inside", (X, Y), r"^Classifier is called with \(tensor\), but its modes were built for \(pixel_values="),
        ("loss inside", {"pixel_values": X}, r"^Classifier is called with \(pixel_values=tensor\), but its modes were"),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_reported_in_one_line(name: str, batch: Any, message: str) -> None:
    inputs, model = call_of(name)
    with pytest.raises(ValueError, match=message) as error:
        read_batches(batch, inputs, model)
    assert "\n" not in str(error.value)


def test_halves_divide_what_is_as_long_as_the_batch() -> None:
    inputs, model = call_of("depth")
    (call,) = read_batches(((X[:7], D[:7]), {"y": Y[:7]}), inputs, model)
    first, second = call.halves()
    assert torch.equal(first.leaves[0], X[:3]) and torch.equal(second.leaves[0], X[3:6])
    assert torch.equal(first.leaves[1], D[:3]) and torch.equal(second.targets["y"], Y[3:6])
    for targets in (Y[:5], [Y[:7], 3], torch.tensor(1.0)):
        (call,) = read_batches(((X[:7], D[:7]), targets), inputs, model)
        assert call.halves() == []
    (small,) = read_batches(((X[:3], D[:3]), Y[:3]), inputs, model)
    assert small.halves() == []
    (inside,) = read_batches({"pixel_values": X, "labels": Y}, *call_of("loss inside"))
    assert [len(half.leaves[1]) for half in inside.halves()] == [4, 4]


# Agreement over such batches -----------------------------------------------------------------------------------------


def by_hand(model: Network, full_loss: Tensor, twin: Network, low_loss: Tensor) -> tuple[float, float]:
    """Cosine and norm ratio of both gradients, worked out without the product."""
    full_loss.backward()
    low_loss.backward()
    low = full_gradients(twin)
    ours = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    theirs = torch.cat([low[name].flatten() for name, _ in model.named_parameters()])
    return float(F.cosine_similarity(ours, theirs, dim=0)), float(theirs.norm() / ours.norm())


@pytest.mark.parametrize("front_end", ["auto", "fx", "export"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_agreement_is_that_of_both_backward_passes(name: str, front_end: Any) -> None:
    model, example = EXAMPLES[name]
    inside = name == "loss inside"
    batch = example if inside else (example, Y)
    pair = build_pair(model, example, front_end=front_end, images="x" if "depth" in name else None)

    def criterion(output: Any, targets: Any) -> Tensor:
        assert (targets is None) is inside
        return output["loss"] if inside else F.cross_entropy(output, targets)

    found = gradient_agreement(pair, batch, criterion)
    ours, twin = low_twin(model), low_twin(model)
    ours.body = torch.nn.Conv2d(4, 4, 3, padding=1)
    ours.load_state_dict(model.state_dict())
    small = {"plain": (downsample(X, 2),), "loss inside": (downsample(X, 2), Y)}.get(name, (downsample(X, 2), D))
    large = {"plain": (X,), "loss inside": (X, Y)}.get(name, (X, D))
    losses = [criterion(network(*args), None if inside else Y) for network, args in ((ours, large), (twin, small))]
    cosine, ratio = by_hand(ours, losses[0], twin, losses[1])
    assert found.cosine == pytest.approx(cosine, abs=1e-5)
    assert found.norm_ratio == pytest.approx(ratio, rel=1e-4)
    assert found.ceiling < 1  # the labels are halved with the images, also inside
    assert gradient_agreement(pair, [batch, batch], criterion).batches == 2


def test_agreement_of_a_mode_of_a_ladder() -> None:
    configs = [LowModeConfig(ratio=4, kernel_ratio=2), LowModeConfig(ratio=2)]
    ladder = build_ladder(Plain(), X, configs)
    by_mode = {mode: gradient_agreement(ladder, (X, Y), F.cross_entropy, mode).cosine for mode in ladder.modes}
    alone = [gradient_agreement(build_pair(Plain(), X, each), (X, Y), F.cross_entropy).cosine for each in configs]
    assert [by_mode[mode] for mode in ladder.modes[:-1]] == alone and alone[0] != alone[1]
    assert by_mode[Mode.FULL] == pytest.approx(1)
    assert gradient_agreement(ladder, (X, Y), F.cross_entropy).cosine == alone[0]


class Counting(Network):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.logits(x) * self.calls


@pytest.mark.parametrize("front_end", ["auto", "live"])
def test_every_gradient_is_taken_in_one_state(front_end: Any) -> None:
    model = Counting()
    pair = build_pair(model, X, front_end=front_end)
    found = gradient_agreement(pair, [(X, Y)] * 3, lambda output, _: output.mean())
    assert found.norm_ratio_error == found.cosine_error == 0 and "calls" not in vars(model)
    plain = gradient_agreement(build_pair(Plain(), X), (X, Y), lambda output, _: output.mean())
    assert found.norm_ratio == pytest.approx(plain.norm_ratio, rel=1e-5)


def test_low_steps_leave_no_trace_on_trials_and_costs() -> None:
    class Penalised(Network):
        penalty = torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            logits = self.logits(x)
            self.penalty = self.penalty.detach() + 1 + 0 * logits.sum()  # with a gradient, for the loss to read
            return logits

    probe = Probe(Penalised(), [(X, Y)] * 3, F.cross_entropy, lambda weights: torch.optim.SGD(weights, lr=0.01), kept=2)
    probe.run((3,))
    assert probe.model.penalty == 3
    pair = pair_of(probe.captured, LowModeConfig())
    probe.trial_run(pair, 6)  # four low steps, then two full ones
    assert probe.model.penalty == 5
    low = network(pair, Mode.LOW, downsample=True)
    step_gradient(low, probe.batches[0], F.cross_entropy, probe.model)
    assert probe.model.penalty == 5
    step_cost(pair, probe.batches[0], F.cross_entropy, StepKind(probe.optimizer), rounds=1)
    assert probe.model.penalty == 5


def test_costs_of_captured_steps_leave_no_trace() -> None:
    recorder = Recorder()
    probe = Probe(Plain(), [(X, Y)] * 3, F.cross_entropy, lambda weights: torch.optim.SGD(weights, lr=0.01), kept=2)
    pair = pair_of(probe.captured, LowModeConfig())
    before = {name: value.clone() for name, value in probe.model.state_dict().items()}
    kind = StepKind(partial(torch.optim.SGD, lr=0.1, fused=True), graphs=recorder)
    cost, spread = step_cost(pair, probe.batches[0], F.cross_entropy, kind, rounds=3)
    assert 0 < cost < 2 and 0 <= spread < 2
    assert (recorder.captures, recorder.replays) == (2, 2 + 3 * 2 * 10)
    assert all(torch.equal(value, before[name]) for name, value in probe.model.state_dict().items())
    assert all(parameter.grad is None for parameter in probe.model.parameters())
