"""``TrainStep``: a loop of one's own on a CPU, and the same bits where steps are recorded and replayed."""

from __future__ import annotations

import copy
import itertools
import math
import random
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, TrainStep, build_pair
from lowmode_fx.runtime.captured.complaints import UncapturedWarning
from tests.runtime.recorder import Recorder, recording
from tests.runtime.runs import (
    IMAGES,
    OPTIONS,
    SGD,
    STEPS,
    GraphKind,
    Make,
    Net,
    Run,
    batches,
    build,
    heat,
    recorded,
    same,
)


class Exhausted(Recorder):
    """Has no memory left where a recorded optimizer steps."""

    def capture(self, run: Any, generators: Any) -> Any:
        def broken() -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.optim.SGD, "step", self._fail)
                return run()

        return super().capture(broken, generators)

    def _fail(self, *_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("none left")


def test_a_recording_that_breaks_off_within_a_scaled_step_leaves_the_scaler_ready() -> None:
    options: dict[str, Any] = {"clip_grad_norm": 1.0, "autocast": torch.float16}
    with pytest.warns(UncapturedWarning, match="none left"):
        broken = Run(graphs=Exhausted(), **options).train(batches())
    assert broken.step.captures == 0
    assert same(broken, Run(capture=False, **options).train(batches()))


def test_autocast_around_a_step_is_left_as_it_is() -> None:
    """As a trainer enters it; its type counts from the step on in which it changes, captured or not."""

    def train(run: Run, *dtypes: torch.dtype | None) -> Run:
        torch.manual_seed(5)
        for dtype in dtypes:
            for images, labels in batches():
                with torch.autocast("cpu", dtype, enabled=dtype is not None):
                    run.losses.append(run.step(images, labels).item())
        return run

    captured = train(recorded(), None, torch.bfloat16, torch.float16)
    assert captured.step.captures == 2
    assert same(captured, train(Run(capture=False), None, torch.bfloat16, torch.float16))
    assert not same(captured, train(Run(capture=False), None, None, None)), "it has rounded"


# On a CPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low_weight", [1.0, 0.5])
def test_a_step_is_the_loop_of_ones_own(low_weight: float) -> None:
    net, by_hand = build(low_weight=low_weight), build(low_weight=low_weight)
    run = Run(net=net).train(batches())
    optimizer = SGD(by_hand.parameters())
    by_hand.attach(optimizer)
    torch.manual_seed(5)
    losses = []
    for images, labels in batches():
        loss = F.cross_entropy(by_hand(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == run.losses
    assert by_hand.step == net.step == STEPS
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in by_hand.state_dict().items())


def test_a_module_without_modes_trains_in_full() -> None:
    torch.manual_seed(0)
    model = Net()
    twin = copy.deepcopy(model)
    step = TrainStep(model, F.cross_entropy, SGD(model.parameters()), graphs=Recorder())
    optimizer = SGD(twin.parameters())
    torch.manual_seed(5)
    losses = [step(*batch).item() for batch in batches()]
    torch.manual_seed(5)
    for (images, labels), found in zip(batches(), losses, strict=True):
        loss = F.cross_entropy(twin(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert loss.item() == found
    assert step.captures == 1


def test_inputs_are_a_tensor_a_tuple_or_keywords() -> None:
    losses = []
    for wrap in (lambda x: x, lambda x: (x,), lambda x: {"x": x}):
        step = TrainStep(net := build(), F.cross_entropy, SGD(net.parameters()))
        torch.manual_seed(5)
        losses.append([step(wrap(images), labels).item() for images, labels in batches(4)])
    assert losses[0] == losses[1] == losses[2]


def test_a_net_may_return_its_loss() -> None:
    class WithLoss(Net):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
            return F.cross_entropy(super().forward(x), labels)

    torch.manual_seed(0)
    model = WithLoss()
    pair = build_pair(model, (torch.zeros(IMAGES), torch.zeros(IMAGES[0], dtype=torch.long)))
    net = LowModeModel(pair, BernoulliSchedule(0.5, seed=3), compile=False)
    step = TrainStep(net, None, SGD(net.parameters()), graphs=Recorder())
    torch.manual_seed(5)
    losses = [step(batch).item() for batch in batches()]
    assert losses == Run().train(batches()).losses
    assert step.captures == 2


def test_arguments_are_checked() -> None:
    net = build()
    optimizer = SGD(net.parameters())
    with pytest.raises(TypeError, match="net is of type function; give a LowModeModel or another module"):
        TrainStep(lambda x: x, F.cross_entropy, optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimizer is of type int"):
        TrainStep(net, F.cross_entropy, 3)
    with pytest.raises(ValueError, match=r"optimizer has none of the net's parameters; make it with net.parameters"):
        TrainStep(net, F.cross_entropy, SGD(build().parameters()))
    closure = (
        r"^optimizer is of type LBFGS, whose step needs a closure; call optimizer.step\(closure\) in a loop of your "
    )
    with pytest.raises(ValueError, match=closure):
        TrainStep(net, F.cross_entropy, torch.optim.LBFGS(net.parameters()))
    with pytest.raises(TypeError, match=r"autocast='bf16' is of type str; give a dtype such as torch\.bfloat16"):
        TrainStep(net, F.cross_entropy, optimizer, autocast="bf16")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="after_step=3 is of type int; give a function, or None"):
        TrainStep(net, F.cross_entropy, optimizer, after_step=3)  # type: ignore[arg-type]
    each_image = partial(F.cross_entropy, reduction="none")
    with pytest.raises(ValueError, match=r"criterion returned a tensor of shape \(4,\); return a scalar"):
        TrainStep(net, each_image, optimizer)(*batches(1)[0])
    with pytest.raises(ValueError, match="accumulate=0"):
        TrainStep(net, F.cross_entropy, optimizer, accumulate=0)
    with pytest.raises(ValueError, match="clip_grad_norm=0"):
        TrainStep(net, F.cross_entropy, optimizer, clip_grad_norm=0)


# Recorded and replayed ------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Make] = {
    "sgd": SGD,
    "sgd, dampened": partial(torch.optim.SGD, lr=0.125, momentum=0.5, dampening=0.25, fused=True),
    "adam": partial(torch.optim.Adam, lr=2**-7, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=2**-7, fused=True),
}


@pytest.mark.parametrize(
    ("make", "options"),
    [("sgd", each) for each in OPTIONS] + [(each, "two batches a step") for each in OPTIMIZERS] + [("adamw", "fp16")],
)
def test_replays_leave_the_same_bits(graphs: GraphKind, make: str, options: str) -> None:
    def rate(run: Run, place: int) -> None:
        run.optimizer.param_groups[0]["lr"] = 2.0 ** -(4 + place // 7)

    data = graphs.batches(STEPS * max(2, OPTIONS[options].get("accumulate", 1) - 1))
    ours, loop = (run(OPTIMIZERS[make], **OPTIONS[options]).train(data, rate) for run in (graphs.captured, graphs.loop))
    assert same(ours, loop)
    assert (ours.step.uncaptured, ours.step.optimizer_outside) == (None, None)
    kinds = min(ours.step.accumulate, 3) * 2  # of batches, first, between and last, in either mode
    assert ours.step.captures == ours.recorder.captures == kinds
    # Two of each kind run as a loop does, and of middle ones all until the first batch of their step is replayed.
    between = ours.step.accumulate - 2
    assert ours.recorder.replays == len(data) - 2 * 2 * min(ours.step.accumulate, 2) - 2 * 2 * max(between, 0)


def test_a_rate_in_a_tensor_is_read_at_each_replay(graphs: GraphKind) -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=torch.tensor(2**-7, device=graphs.device), fused=True)

    def schedule(run: Run, place: int) -> None:
        if place == 0:
            run.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, STEPS)  # type: ignore[attr-defined]
        else:
            run.scheduler.step()  # type: ignore[attr-defined]

    ours, loop = (
        graphs.captured(make).train(graphs.batches(), schedule),
        graphs.loop(make).train(graphs.batches(), schedule),
    )
    assert same(ours, loop)
    assert ours.recorder.replays == STEPS - 4


@pytest.mark.parametrize("make", ["sgd", "adam", "adamw"])
def test_rates_that_are_no_float32(make: str) -> None:
    """Fused optimizers read them as float32: SGD's bits are the same, the others' weights nearly."""

    def rate(run: Run, place: int) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.1 * 0.9**place if make == "sgd" else 0.01 * 0.9**place

    ours, loop = (run(OPTIMIZERS[make]).train(batches(), rate) for run in (recorded, Run))
    assert ours.recorder.replays == STEPS - 4
    assert same(ours, loop) == (make == "sgd")
    others = dict(loop.net.named_parameters())
    del others["stem.bias"]  # before a batch norm: its gradients are rounding errors, which Adam makes large
    for name, weight in others.items():
        difference = (ours.net.get_parameter(name) - weight).norm() / weight.norm()
        assert difference <= (0 if make == "sgd" else 1e-6), name


def test_an_average_of_the_weights_is_taken_after_each_step(graphs: GraphKind) -> None:
    def averaged(make: Callable[..., Run]) -> tuple[Run, AveragedModel]:
        net = build().to(graphs.device)
        average = AveragedModel(net.ladder.model)
        run = make(net=net, after_step=lambda: average.update_parameters(net.ladder.model))
        return run.train(graphs.batches()), average

    (ours, average), (_, expected) = averaged(graphs.captured), averaged(graphs.loop)
    assert all(map(torch.equal, average.module.parameters(), expected.module.parameters()))
    assert int(average.n_averaged) == STEPS
    assert ours.recorder.replays == STEPS - 4


def test_the_loss_is_a_tensor_of_its_own() -> None:
    run = recorded()
    losses = [run.step(*batch) for batch in batches()]
    assert len({loss.item() for loss in losses}) > 10
    assert not any(loss.requires_grad for loss in losses)


def test_the_norm_of_gradients_is_reported(graphs: GraphKind) -> None:
    ours, loop = graphs.captured(clip_grad_norm=0.5), graphs.loop(clip_grad_norm=0.5)
    torch.manual_seed(5)
    norms = [(ours.step(*batch), ours.step.grad_norm.item())[1] for batch in graphs.batches()]
    torch.manual_seed(5)
    assert norms == [(loop.step(*batch), loop.step.grad_norm.item())[1] for batch in graphs.batches()]
    assert len(set(norms)) == STEPS


def test_no_gradient_is_left_between_steps() -> None:
    run = recorded()
    for batch in batches():
        run.step(*batch)
        assert all(parameter.grad is None for parameter in run.net.parameters())


def test_a_resumed_run_captures_again_and_ends_with_the_same_bits(graphs: GraphKind) -> None:
    def state(run: Run) -> Any:
        return copy.deepcopy((run.net.state_dict(), run.optimizer.state_dict(), run.net.schedule_state()))

    data = graphs.batches(2 * STEPS)
    whole = graphs.captured()
    whole.train(data[:STEPS])
    saved, draws, gpu_draws = state(whole), torch.get_rng_state(), torch.cuda.get_rng_state_all()
    for batch in data[STEPS:]:
        whole.losses.append(whole.step(*batch).item())

    resumed = graphs.captured()
    resumed.train(data[:7])  # of another life: what was recorded there must not be replayed
    weights, optimizer, schedule = saved
    resumed.net.load_state_dict(weights)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.net.load_schedule_state(schedule)
    torch.set_rng_state(draws)
    torch.cuda.set_rng_state_all(gpu_draws)
    resumed.losses = whole.losses[:STEPS] + [resumed.step(*batch).item() for batch in data[STEPS:]]
    assert same(whole, resumed)
    assert resumed.step.captures == 2


# Nothing is replayed that the model wouldn't do now -------------------------------------------------------------------


def freeze(run: Run) -> None:
    run.net.body.weight.requires_grad_(False)


def hook(run: Run) -> None:
    run.net.body.register_forward_hook(lambda module, args, output: output * 0.5)


def tensor_hook(run: Run) -> None:
    run.net.body.weight.register_hook(lambda gradient: gradient * 0.5)


def accumulation_hook(run: Run) -> None:
    def halve(weight: Tensor) -> None:
        assert weight.grad is not None
        weight.grad.mul_(0.5)

    run.net.body.weight.register_post_accumulate_grad_hook(halve)


def drop(run: Run) -> None:
    run.net.drop.p = 0.5


def replace(run: Run) -> None:
    torch.manual_seed(9)
    run.net.drop = nn.Sequential(nn.Dropout(0.25), nn.LayerNorm(8, elementwise_affine=False))


def move_memory(run: Run) -> None:
    run.net.body.weight.data = run.net.body.weight.data.clone() * 0.5


def turn(run: Run) -> None:
    """The same memory, read in another order."""
    run.net.body.weight.data = run.net.body.weight.data.transpose(0, 1)


def momentum(run: Run) -> None:
    run.optimizer.param_groups[0]["momentum"] = 0.5


def decay(run: Run) -> None:
    run.optimizer.param_groups[0]["weight_decay"] = 0.125


def forget_momentum(run: Run) -> None:
    run.optimizer.state.clear()


def lighter(run: Run) -> None:
    run.net._low_weights[Mode.LOW] = 0.5


def fixed_statistics(run: Run) -> None:
    run.net.norm.eval()


CHANGES = [
    freeze, hook, tensor_hook, accumulation_hook, heat, drop, replace, move_memory, turn, momentum, decay,
    forget_momentum, lighter, fixed_statistics,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_steps_counts_from_the_next(graphs: GraphKind, change: Callable[[Run], None]) -> None:
    def between(run: Run, place: int) -> None:
        if place == STEPS:
            change(run)

    data = graphs.batches(2 * STEPS)
    ours, loop = graphs.captured().train(data, between), graphs.loop().train(data, between)
    assert loop.losses != graphs.loop().train(data).losses or change is freeze
    assert same(ours, loop)
    assert ours.recorder.captures == 4
    assert ours.step.captures == 2
    assert ours.step.uncaptured is None


def test_a_scheduler_may_be_made_between_steps() -> None:
    def between(run: Run, place: int) -> None:
        if place == STEPS:
            run.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, STEPS)  # type: ignore[attr-defined]
        elif place > STEPS:
            run.scheduler.step()  # type: ignore[attr-defined]

    ours, loop = recorded().train(batches(2 * STEPS), between), Run().train(batches(2 * STEPS), between)
    assert same(ours, loop)
    assert ours.step.optimizer_outside is None
    assert ours.step.captures == 2


@pytest.mark.parametrize("clearing", ["always", "never", "now and then"])
def test_gradients_of_parameters_that_the_optimizer_leaves_alone(clearing: str) -> None:
    def between(run: Run, place: int) -> None:
        if clearing == "always" or (clearing == "now and then" and place % 3 == 0):
            run.net.zero_grad()

    def head(parameters: Any) -> torch.optim.Optimizer:
        return SGD(list(parameters)[-2:])

    runs = [make(head) for make in (recorded, Run)]
    for run in runs:
        run.train(batches(), between)
    ours, loop = runs
    assert same(ours, loop)
    for mine, theirs in zip(ours.net.parameters(), loop.net.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)
    assert ours.recorder.replays > 0


def test_gradients_that_always_differ_end_recording() -> None:
    def between(run: Run, place: int) -> None:
        for parameter in run.net.stem.parameters():
            parameter.grad = torch.ones_like(parameter)

    def head(parameters: Any) -> torch.optim.Optimizer:
        return SGD(list(parameters)[-2:])

    with pytest.warns(UserWarning, match="that the optimizer doesn't step on have other gradients in each step"):
        ours = recorded(head).train(batches(), between)
    assert same(ours, Run(head).train(batches(), between))


def test_step_hooks_that_come_later_run_in_each_step() -> None:
    def between(run: Run, place: int) -> None:
        def halve(*_: Any) -> None:
            run.net.fc.bias.grad.mul_(0.5)

        if place == 8:
            run.optimizer.register_step_pre_hook(halve)

    with pytest.warns(UserWarning, match="step hooks on SGD run in Python"):
        ours = recorded().train(batches(), between)
    assert same(ours, Run().train(batches(), between))


def test_step_hooks_on_all_optimizers_run_in_each_step() -> None:
    def train(make: Callable[[], Run]) -> Run:
        def between(run: Run, place: int) -> None:
            def halve(*_: Any) -> None:
                run.net.fc.bias.grad.mul_(0.5)

            if place == 8:
                handles.append(register_optimizer_step_pre_hook(halve))

        handles: list[RemovableHandle] = []
        try:
            return make().train(batches(), between)
        finally:
            handles[0].remove()

    with pytest.warns(UserWarning, match="step hooks on all optimizers run in Python"):
        ours = train(recorded)
    assert same(ours, train(Run))


def test_options_of_the_scaler_that_change_count() -> None:
    def between(run: Run, place: int) -> None:
        if place == 8:
            run.step.scaler.set_growth_interval(10)
            run.step.scaler.set_growth_factor(4.0)

    runs = [make(autocast=torch.float16, scaler=GradScaler("cpu", init_scale=2.0)) for make in (recorded, Run)]
    for run in runs:
        run.train(batches(), between)
    assert runs[0].step.scaler.get_scale() == runs[1].step.scaler.get_scale() == 32.0
    assert runs[0].losses == runs[1].losses


def test_sparse_inputs_run_uncaptured() -> None:
    model = nn.Linear(4, 3)
    nets = [copy.deepcopy(model) for _ in range(2)]
    steps = [
        TrainStep(net, lambda out, target: F.mse_loss(out, target.to_dense()), SGD(net.parameters()), graphs=graphs)
        for net, graphs in zip(nets, (Recorder(), None), strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    with pytest.warns(UncapturedWarning, match="an input of layout torch.sparse_coo"):
        for _ in range(8):
            images, target = (torch.randn(5, size, generator=generator) for size in (4, 3))
            mine, theirs = (step(images, target.relu().to_sparse()) for step in steps)
            assert torch.equal(mine, theirs)


def test_a_loss_is_watched_as_the_model_is() -> None:
    def train(graphs: Recorder | None) -> Run:
        strength = 1.0

        def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
            return strength * F.cross_entropy(outputs, labels)

        def between(run: Run, place: int) -> None:
            nonlocal strength
            strength = 0.5 if place >= STEPS else 1.0

        return Run(criterion=criterion, graphs=graphs).train(batches(2 * STEPS), between)

    ours = train(Recorder())
    assert same(ours, train(None))
    assert ours.recorder.captures == 4


@pytest.mark.parametrize("kind", [dict, list])
def test_a_container_replaced_by_an_equal_one_is_watched_in_its_place(kind: Any) -> None:
    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.options: Any = {0: 1.0} if kind is dict else [1.0]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.options[0]

    def between(run: Run, place: int) -> None:
        model: Any = run.net.ladder.model
        if place == STEPS:
            model.options = kind(model.options)
        if place == STEPS + 2:
            model.options[0] = 2.0

    def train(graphs: Recorder | None) -> Run:
        torch.manual_seed(0)
        net = LowModeModel(build_pair(Scaled(), torch.zeros(IMAGES)), BernoulliSchedule(0.5, seed=3), compile=False)
        return Run(net=net, graphs=graphs).train(batches(2 * STEPS), between)

    ours = train(Recorder())
    assert same(ours, train(None))
    assert ours.recorder.replays


def test_evaluation_between_steps_changes_nothing() -> None:
    def between(run: Run, place: int) -> None:
        run.net.eval()
        with torch.no_grad():
            run.net(torch.zeros(IMAGES))
        run.net.train()

    ours = recorded().train(batches(), between)
    assert same(ours, Run().train(batches(), between))
    assert ours.recorder.replays == STEPS - 4


def test_a_ragged_batch_runs_uncaptured_and_right(graphs: GraphKind) -> None:
    data = graphs.batches(10) + graphs.batches(1, size=3) + graphs.batches(10) + graphs.batches(1, size=3)
    ours = graphs.captured().train(data)
    assert same(ours, graphs.loop().train(data))
    assert (ours.recorder.captures, ours.recorder.replays) == (2, 20 - 4)


def test_batches_of_another_size_that_keep_coming_are_captured_too(graphs: GraphKind) -> None:
    data = graphs.batches() + graphs.batches(size=3)
    ours = graphs.captured().train(data)
    assert same(ours, graphs.loop().train(data))
    assert ours.recorder.captures == ours.step.captures == 4


def test_what_keeps_changing_is_no_longer_captured() -> None:
    def between(run: Run, place: int) -> None:
        run.net.temperature = 1.0 + 2.0**-10 * place

    with pytest.warns(
        UncapturedWarning, match=r"temperature keeps changing between steps: 1\.\d+, 1\.\d+; give capture=False"
    ) as caught:
        ours = recorded().train(batches(2 * STEPS), between)
    assert len(caught) == 1
    assert same(ours, Run().train(batches(2 * STEPS), between))


# What can't be captured -----------------------------------------------------------------------------------------------


class Syncing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if x.sum().item() > 0 else 0.5)


class Counting(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.temperature += 2.0**-5
        return super().forward(x)


class Remembering(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return super().forward(x) / len(self.seen)


class Drawing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * random.random()


class DrawingItsOwn(Net):
    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.generator.random()


class DrawingNumpys(Net):
    def __init__(self) -> None:
        super().__init__()
        self.generator = numpy.random.default_rng(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.generator.random()


class Alternating(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scales = itertools.cycle([1.0, 0.5])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * next(self.scales)


class Noting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = numpy.ones(2000)

    def forward(self, x: Tensor) -> Tensor:
        self.scale[1] *= 0.875
        return super().forward(x) * float(self.scale[1])


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (Syncing, r"waits for the device \(.*test_train_step.py:\d+\)"),
        (Counting, "changes model.temperature|changes temperature"),
        (Remembering, "changes"),
        (Drawing, "draws random numbers on the host"),
        (DrawingItsOwn, "draws from a generator of its own"),
        (DrawingNumpys, "draws from a generator of its own"),
        (Alternating, "moves an iterator"),
        (Noting, "writes to an array"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_forward_that_python_takes_part_in_runs_uncaptured(graphs: GraphKind, kind: type[Net], cause: str) -> None:
    def train(make: Callable[..., Run]) -> Run:
        torch.manual_seed(0)
        random.seed(4)
        return make(net=build(kind())).train(graphs.batches())

    with pytest.warns(UncapturedWarning, match=cause) as caught:
        ours = train(graphs.captured)
    assert graphs.told(caught) == 1
    assert same(ours, train(graphs.loop))
    assert ours.recorder.replays == 0


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (partial(torch.optim.SGD, lr=0.1), "SGD reads its learning rate in Python; make it with fused=True"),
        (partial(torch.optim.AdamW, lr=0.01), "AdamW reads .*; make it with fused=True or capturable=True"),
        (partial(torch.optim.RMSprop, lr=0.01), "RMSprop reads .*; make it with capturable=True"),
        (partial(torch.optim.Adafactor, lr=0.01), "Adafactor may count steps in Python"),
    ],
)
def test_an_optimizer_with_a_state_in_python_steps_after_each_replay(graphs: GraphKind, make: Make, cause: str) -> None:
    def rate(run: Run, place: int) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.1 / (1 + place)

    with pytest.warns(UncapturedWarning, match=cause):
        ours = graphs.captured(make, clip_grad_norm=0.5)
    ours.train(graphs.batches(), rate)
    assert same(ours, graphs.loop(make, clip_grad_norm=0.5).train(graphs.batches(), rate))
    assert ours.recorder.replays == STEPS - 4
    assert ours.step.optimizer_outside is not None


def test_options_that_keep_changing_put_the_optimizer_outside(graphs: GraphKind) -> None:
    def between(run: Run, place: int) -> None:
        run.optimizer.param_groups[0]["momentum"] = 1 - 2.0 ** -(1 + place // 4)

    with pytest.warns(UncapturedWarning, match="its momentum keeps changing between steps") as caught:
        ours = graphs.captured().train(graphs.batches(4 * STEPS), between)
    assert graphs.told(caught) == 1
    assert same(ours, graphs.loop().train(graphs.batches(4 * STEPS), between))
    assert ours.recorder.replays > STEPS


class Breaking(Recorder):
    """Fails half-way through each recording."""

    def capture(self, run: Callable[[], Any], generators: Any) -> Any:
        def half() -> Any:
            run()
            raise RuntimeError("operation not permitted when stream is capturing")

        return super().capture(half, generators)


def test_a_recording_that_fails_leaves_training_as_it_was() -> None:
    with pytest.warns(
        UncapturedWarning, match="can't be recorded: operation not permitted .*recorder|capturing"
    ) as caught:
        ours = Run(graphs=Breaking()).train(batches())
    assert len(caught) == 1
    assert same(ours, Run().train(batches()))


class Refusing(Net):
    """Can't be recorded, which the rehearsal doesn't show."""

    def forward(self, x: Tensor) -> Tensor:
        if recording():
            x.sum().item()
        return super().forward(x)


def test_a_forward_that_only_the_recording_refuses_runs_uncaptured(graphs: GraphKind) -> None:
    def train(make: Callable[..., Run]) -> Run:
        torch.manual_seed(0)
        return make(net=build(Refusing())).train(graphs.batches())

    with pytest.warns(UncapturedWarning, match="training steps run uncaptured.* can't be recorded: ") as caught:
        ours = train(graphs.captured)
    assert graphs.told(caught) == 1
    assert same(ours, train(graphs.loop))
    assert (ours.step.captures, ours.recorder.captures, ours.recorder.replays) == (0, 1, 0)
    another = graphs.captured().train(graphs.batches())
    assert (another.step.captures, another.recorder.replays) == (2, STEPS - 4)
    assert same(another, graphs.loop().train(graphs.batches()))


def test_a_clipped_step_is_captured_anew_after_a_change() -> None:
    def between(run: Run, place: int) -> None:
        if place == STEPS:
            heat(run)

    ours = recorded(clip_grad_norm=0.5).train(batches(2 * STEPS), between)
    assert same(ours, Run(clip_grad_norm=0.5).train(batches(2 * STEPS), between))
    assert (ours.recorder.captures, ours.recorder.forgotten) == (4, 1)


def test_a_net_whose_forwards_are_captured_already_is_left_to_that() -> None:
    options = {"mode": "reduce-overhead"}
    pair = build_pair(Net(), torch.zeros(IMAGES))
    net = LowModeModel(pair, BernoulliSchedule(0.5), compile_options=options)
    with pytest.warns(UncapturedWarning, match=r"torch.compile captures .* itself \('reduce-overhead'\)"):
        TrainStep(net, F.cross_entropy, SGD(net.parameters()), graphs=Recorder())


def test_gradients_that_are_there_before_a_step_are_added_to() -> None:
    def between(run: Run, place: int) -> None:
        if place % 5 == 4:
            for parameter in run.net.parameters():
                parameter.grad = torch.ones_like(parameter)

    with pytest.warns(UncapturedWarning, match="parameters have gradients before a step") as caught:
        ours = recorded().train(batches(), between)
    assert len(caught) == 1
    assert same(ours, Run().train(batches(), between))
    assert ours.recorder.replays == STEPS - 4 - 3


def test_an_input_of_an_unknown_kind_is_refused() -> None:
    class Labels:
        def __init__(self, labels: Tensor) -> None:
            self.labels = labels

    step = TrainStep(
        net := build(), lambda outputs, given: F.cross_entropy(outputs, given.labels), SGD(net.parameters()),
        graphs=Recorder(),
    )  # fmt: skip
    with pytest.warns(UncapturedWarning, match="the batch holds an input of type Labels"):
        for images, labels in batches(4):
            step(images, Labels(labels))
    assert step.captures == 0


def test_capture_can_be_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncapturedWarning)
        run = Run(partial(torch.optim.SGD, lr=0.1), capture=False, graphs=Recorder()).train(batches(6))
    assert run.step.uncaptured is not None
    assert run.step.captures == 0


def test_a_batch_of_inputs_and_targets_in_one_tuple_is_told() -> None:
    run = Run()
    images, labels = batches(1)[0]
    with pytest.raises(TypeError, match=r"Net doesn't take two arguments; give step\(inputs, targets\)"):
        run.step((images, labels))
    with pytest.raises(TypeError, match=r"a list of 2, as a loader's batch is; give step\(\*batch\)"):
        run.step([images, labels])
    assert math.isfinite(run.step((images,), labels).item())


@pytest.mark.parametrize("criterion", [F.cross_entropy, nn.MSELoss()])
@pytest.mark.parametrize("as_inputs", [lambda images: images, lambda images: {"x": images}])
def test_missing_targets_are_told(criterion: Any, as_inputs: Any) -> None:
    net = build()
    step = TrainStep(net, criterion, SGD(net.parameters()))
    images = batches(1)[0][0]
    told = r"^criterion got no targets \((Type|Attribute)Error: .*NoneType.*\); give step\(inputs, targets\)$"
    for _ in range(2):
        with pytest.raises(TypeError, match=told):
            step(as_inputs(images))
    with pytest.raises(TypeError, match=r"^cross_entropy_loss\(\): argument 'target'"):
        TrainStep(net, F.cross_entropy, SGD(net.parameters()))(images, "labels")
    own = TrainStep(net, lambda outputs, targets: outputs.square().mean(), SGD(net.parameters()))
    assert math.isfinite(own(images).item())
