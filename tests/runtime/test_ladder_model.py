"""``LowModeModel`` over several modes: what holds for two of them holds for any number."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compiler_backends import RecordingBackend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import Tiny
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lowmode_fx import (
    AgreementSchedule,
    BernoulliSchedule,
    Ladder,
    LadderSchedule,
    LowModeConfig,
    LowModeModel,
    Mode,
    PeriodicSchedule,
    build_ladder,
    build_pair,
    host_loader,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = (LowModeConfig(ratio=4), LowModeConfig(ratio=2))
NAMES = ("r4", "r2", "full")
SIDES = {"r4": 4, "r2": 8, "full": 16}
IMAGES = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 5
#: Steps of every mode, drawn one by one.
MIXED = LadderSchedule(probabilities=[(0.4, 0.3, 0.3)], seed=1)


def model(dropout: float = 0.0) -> Tiny:
    torch.manual_seed(0)
    tiny = Tiny()
    tiny.drop.p = dropout
    return tiny


def make_ladder(dropout: float = 0.0, **options: Any) -> Ladder:
    return build_ladder(model(dropout), torch.zeros(4, 3, 16, 16), CONFIGS, **options)


def make(schedule: Any = MIXED, dropout: float = 0.0, ladder: Ladder | None = None, **options: Any) -> LowModeModel:
    return LowModeModel(ladder or make_ladder(dropout), schedule, **{"compile": False, **options}).train()


def train(net: Any, batches: Any, epochs: int = 2, optimizer: Any = None) -> list[str]:
    """The modes of the steps, by name."""
    if optimizer is None:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        net.attach(optimizer)
    modes = []
    for epoch in range(epochs):
        net.set_epoch(epoch)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
            modes.append(str(net.last_mode))
    return modes


def batches(size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=size)


def step(net: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Output, gradients and buffers of one forward and backward."""
    torch.manual_seed(2)  # of dropout
    net.zero_grad()
    output = run()
    F.cross_entropy(output, LABELS[: len(output)]).backward()
    gradients = {name: value.grad.clone() for name, value in net.named_parameters() if value.grad is not None}
    return output.detach(), gradients, {name: value.clone() for name, value in net.named_buffers()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


# The mode of a step --------------------------------------------------------------------------------------------------

quick = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def shared() -> LowModeModel:
    """One net for many schedules."""
    return make()


@quick
@given(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.booleans())
def test_every_step_runs_on_images_of_its_modes_size(shared: LowModeModel, epochs: list[int], by_name: bool) -> None:
    """Modes told by name and by place are the same; epochs beyond the plan are full."""
    seen: list[int] = []
    hook = shared.ladder.model.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-1]))
    shared.schedule = LadderSchedule(epochs, modes=NAMES if by_name else None)
    shared.load_schedule_state({"step": 0, "epoch": 0})
    expected = [name for name, count in zip(NAMES, epochs, strict=True) for _ in range(count)] + ["full"]
    found = []
    for epoch in range(len(expected)):
        shared.set_epoch(epoch)
        assert shared.mode is Mode(expected[epoch])
        shared(IMAGES[:2])
        found.append(str(shared.last_mode))
    hook.remove()
    assert found == expected and seen == [SIDES[name] for name in expected]


def test_modes_are_mixed_as_they_are_drawn() -> None:
    net = make()
    modes = train(net, batches(), epochs=5)
    places = {str(Mode.at(place, 3)): name for place, name in enumerate(NAMES)}
    assert modes == [places[str(MIXED.mode(number, number // 6))] for number in range(30)]
    assert min(Counter(modes).values()) >= 4 and set(modes) == set(NAMES)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            LadderSchedule(epochs=(1, 2)),
            "schedule LadderSchedule is for 2 modes, but the ladder has 3: r4, r2, full; give one share, number of "
            "epochs or probability per mode",
        ),
        (
            LadderSchedule(epochs=(1, 2, 3, 4)),
            "schedule LadderSchedule is for 4 modes, but the ladder has 3: r4, r2, full",
        ),
    ],
)
def test_a_schedule_of_another_count_is_refused(schedule: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make(schedule)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("schedule", [BernoulliSchedule(p=1.0), LadderSchedule((1, 1, 1), modes=("r4", "r3", "full"))])
def test_a_mode_that_the_ladder_has_not_is_named_with_those_that_it_has(schedule: Any) -> None:
    net = make(schedule)
    net.set_epoch(1)
    with pytest.raises(ValueError) as error:
        net(IMAGES[:4])
    mode = "low" if isinstance(schedule, BernoulliSchedule) else "r3"
    assert str(error.value) == (
        f"{type(schedule).__name__} chooses mode {mode!r}, which is not one of this ladder's 3: r4, r2, full; give a "
        "schedule of these, such as LadderSchedule"
    )


def test_a_schedule_that_measures_one_low_mode_is_refused_for_two() -> None:
    with pytest.raises(ValueError) as error:
        make(AgreementSchedule())
    assert str(error.value) == (
        "schedule AgreementSchedule measures one low mode, but the ladder has 2: r4, r2; give a pair, or another "
        "schedule"
    )


def test_a_class_is_no_schedule() -> None:
    with pytest.raises(TypeError, match=r"^schedule is the class LadderSchedule; give an object of it, as Bernoulli"):
        make(LadderSchedule)


# As pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", ["auto", "fx"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_low_step_is_that_of_a_pair_built_alone(place: int, front_end: Any) -> None:
    """Outputs, gradients and buffers, bit by bit; so is a full one."""
    net = make(dropout=0.5, ladder=make_ladder(0.5, front_end=front_end))
    pair = build_pair(model(0.5), torch.zeros(4, 3, 16, 16), CONFIGS[place], front_end=front_end)
    alone = LowModeModel(pair, PeriodicSchedule(1), compile=False).train()
    for ours, theirs in ((Mode(NAMES[place]), Mode.LOW), (Mode.FULL, Mode.FULL)):
        found = step(net, lambda ours=ours: net.run(ours, IMAGES[:4]))  # type: ignore[misc]
        expected = step(alone, lambda theirs=theirs: alone.run(theirs, IMAGES[:4]))  # type: ignore[misc]
        assert torch.equal(found[0], expected[0])
        assert_same(found[1], expected[1])
        assert_same(found[2], expected[2])


def test_with_low_modes_never_chosen_training_is_the_models_own() -> None:
    net, plain = make(LadderSchedule((0, 0, 1)), dropout=0.5), model(0.5).train()
    torch.manual_seed(3)
    assert set(train(net, batches())) == {"full"}
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(3)
    for _ in range(2):
        for images, labels in batches():
            optimizer.zero_grad()
            F.cross_entropy(plain(images), labels).backward()
            optimizer.step()
    assert_same(net.state_dict(), plain.state_dict())


# One set of parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", ["auto", "fx"])
def test_every_mode_trains_every_parameter_and_low_ones_leave_the_buffers_alone(front_end: Any) -> None:
    net = make(ladder=make_ladder(front_end=front_end))
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    for name in NAMES:
        _, gradients, after = step(net, lambda name=name: net.run(Mode(name), IMAGES[:4]))  # type: ignore[misc]
        assert gradients.keys() == dict(net.ladder.model.named_parameters()).keys()
        assert all(value.isfinite().all() and value.any() for value in gradients.values()), name
        if name != "full":
            assert_same(after, buffers)
    assert not torch.equal(after["blocks.0.running_mean"], buffers["blocks.0.running_mean"])


def test_checkpoints_are_the_models_own() -> None:
    net, plain = make(), model()
    train(net, batches(), epochs=1)
    assert list(net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(net.state_dict(), strict=True)
    other = make()
    other.load_state_dict(plain.state_dict(), strict=True)
    assert_same(other.state_dict(), net.state_dict())
    assert torch.equal(other.eval()(IMAGES), plain.eval()(IMAGES))


@pytest.mark.parametrize("weights", [{"r4": 0.25}, {"r2": 0.5, "r4": 0.25}, {"rung1": 0.5}, 0.5])
def test_each_low_mode_has_its_own_weight(weights: Any) -> None:
    """Powers of two, which round nothing; a mode that isn't named keeps its gradients, and so does full-mode."""
    plain, weighted = make(), make(low_weight=weights)
    named = {"r2" if name == "rung1" else name: weight for name, weight in weights.items()} if weights != 0.5 else {}
    for name in NAMES:
        factor = named.get(name, 1.0) if weights != 0.5 else 1.0 if name == "full" else 0.5
        losses, found = [], []
        for net in (plain, weighted):
            net.zero_grad()
            net.schedule = LadderSchedule([int(each == name) for each in NAMES], modes=NAMES)
            losses.append(F.cross_entropy(net(IMAGES[:4]), LABELS[:4]))
            losses[-1].backward()
            assert str(net.last_mode) == name
            found.append([value.grad for value in net.parameters()])
            if name == "full":
                net.ladder.model.load_state_dict(model().state_dict())
        assert torch.equal(*losses)
        assert all(torch.equal(factor * before, after) for before, after in zip(*found, strict=True)), name


def test_a_weight_of_a_mode_that_is_none_of_the_low_ones() -> None:
    with pytest.raises(ValueError, match=r"^low_weight: mode 'r3' is not one of this ladder's 3: 'r4', 'r2', 'full'"):
        make(low_weight={"r3": 0.5})
    with pytest.raises(ValueError, match="mode 'full' is not a low mode"):
        make(low_weight={"full": 0.5})
    with pytest.raises(ValueError, match=r"^low_weight\['r2'\]=0 is out of range; give a number above 0"):
        make(low_weight={"r4": 1.0, "r2": 0})
    with pytest.raises(TypeError, match=r"^low_weight='1' is of type str; give a number above 0"):
        make(low_weight="1")


# Compilation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", ["auto", "fx"])
def test_a_run_compiles_each_mode_once(front_end: Any, nothing_compiled_yet: None) -> None:
    """N low modes and the full one: N + 1 compilations over mixed steps, ragged batches and evaluations."""
    backend = RecordingBackend()
    options = {"backend": backend, "fullgraph": True}
    ladder = make_ladder(dropout=0.5, front_end=front_end)
    net = LowModeModel(ladder, MIXED, compile_options=options).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.attach(optimizer)
    modes: list[str] = []
    for _ in range(4):
        net.train()
        modes += train(net, batches(5), epochs=1, optimizer=optimizer)  # four whole batches, and one of four
        net.eval()
        with torch.no_grad():
            net(IMAGES)
            net(IMAGES[:7])
    assert len(modes) == 20 and min(Counter(modes).values()) >= 3 and set(modes) == set(NAMES)
    assert len(backend.graphs) == 3


def test_a_compiled_run_is_the_uncompiled_one(nothing_compiled_yet: None) -> None:
    plain, compiled = make(), make(compile=True, compile_options={"backend": "eager"})
    assert train(plain, batches()) == train(compiled, batches())
    assert_same(compiled.state_dict(), plain.state_dict())


# State and copies ----------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    straight, first, second = (make(dropout=0.5) for _ in range(3))
    torch.manual_seed(4)
    expected = train(straight, batches(), epochs=4)
    torch.manual_seed(4)
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1, momentum=0.9)
    first.attach(optimizer)
    found = train(first, batches(), epochs=2, optimizer=optimizer)

    second.load_state_dict(first.state_dict())
    second.load_schedule_state(first.schedule_state())
    again = torch.optim.SGD(second.parameters(), lr=0.1, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())
    second.attach(again)
    assert second.step == 12
    found += train(second, batches(), epochs=2, optimizer=again)
    assert found == expected and set(expected[12:]) == set(NAMES)
    assert_same(second.state_dict(), straight.state_dict())


@pytest.mark.parametrize("front_end", ["auto", "fx", "export"])
@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_and_pickles_train_on_to_the_same_bits(make_copy: Any, front_end: Any) -> None:
    net = make(ladder=make_ladder(front_end=front_end), low_weight={"r2": 0.5})
    train(net, batches(), epochs=1)
    ours = make_copy(net)
    assert ours.step == net.step == 6 and ours.modes == net.modes and ours.low_weight == {"r2": 0.5}
    assert ours.ladder.model is not net.ladder.model
    modes = train(ours, batches(), epochs=1)
    assert modes == train(net, batches(), epochs=1) and len(set(modes)) == 3
    assert_same(ours.state_dict(), net.state_dict())


# The loader ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_a_loader_downsampled_train_to_the_same_bits(workers: int) -> None:
    host, device = make(downsample_on="host"), make()
    loader = host_loader(TensorDataset(IMAGES, LABELS), host, batch_size=4, num_workers=workers)
    modes = train(host, loader)
    assert modes == train(device, batches()) and set(modes) == set(NAMES)
    assert_same(host.state_dict(), device.state_dict())


def test_a_loaders_batches_have_the_sizes_of_their_modes() -> None:
    net = make(downsample_on="host")
    loader = host_loader(TensorDataset(IMAGES, LABELS), net, batch_size=2)
    expected = [SIDES[str(net.mode_at(number, 0))] for number in range(12)]
    assert [images.shape[-1] for images, _ in loader] == expected and set(expected) == {4, 8, 16}


def test_of_two_modes_with_one_image_size_the_one_that_is_due_runs() -> None:
    """A batch's size alone can't tell pooled kernels from kept ones."""
    configs = [LowModeConfig(ratio=2), LowModeConfig(ratio=2, kernel_ratio=1)]
    ladder = build_ladder(model(), torch.zeros(4, 3, 16, 16), configs)
    net = make(LadderSchedule((1, 1, 1)), ladder=ladder, downsample_on="host")
    for epoch, name in enumerate(("r2", "r2-kept")):
        net.set_epoch(epoch)
        net(ladder.rung(Mode(name)).downsample(IMAGES[:4]))
        assert str(net.last_mode) == name
    with pytest.raises(ValueError, match=r"images are 4×4; .* needs 16×16 for a full step or 8×8 for a low one"):
        net(IMAGES[:4, :, :4, :4])
