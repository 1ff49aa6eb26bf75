"""``compile="blocks"``: equal blocks are compiled once a mode, and steps are those of uncompiled training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from compiler_backends import RecordingBackend
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, PeriodicSchedule, build_ladder
from lowmode_fx.lowering.blocks import find_blocks, kind_of
from passes.errors import PassError

pytestmark = pytest.mark.usefixtures("nothing_compiled_yet")
IMAGES = (2, 3, 16, 16)


class Block(nn.Module):
    def __init__(self, channels: int, wide: int | None = None) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(channels, wide or channels, 3, 1, 1), nn.BatchNorm2d(wide or channels)
        self.conv2 = nn.Conv2d(wide or channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.bn(self.conv1(x)))))


class Net(nn.Module):
    """A stem, blocks of which some are equal, and a head; ``call`` calls a block."""

    def __init__(self, wides: tuple[int, ...] = (4, 4, 4, 8), call: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 3, 1, 1), nn.ModuleList(Block(4, wide) for wide in wides)
        self.head, self.call = nn.Linear(4, 5), call

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) if self.call is None or not self.training else self.call(block, x)
        return self.head(x.mean((2, 3)))


def make(
    model: nn.Module, compile: Any, *configs: LowModeConfig, p: float = 0.5
) -> tuple[LowModeModel, RecordingBackend]:
    backend = RecordingBackend()
    modes = build_ladder(model, torch.zeros(IMAGES), configs or (LowModeConfig(),))
    schedule: Any = PeriodicSchedule(2) if p == 0.5 else BernoulliSchedule(p=p)
    options = {"backend": backend} if compile else None
    return LowModeModel(modes, schedule, compile=compile, compile_options=options).train(), backend


def steps(net: LowModeModel, count: int = 4) -> tuple[list[str], dict[str, Tensor]]:
    """The modes of some training steps, and what they leave."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.attach(optimizer)
    modes = []
    for step in range(count):
        images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(step))
        F.cross_entropy(net(images), torch.tensor([1, 3])).backward()
        optimizer.step()
        optimizer.zero_grad()
        modes.append(str(net.last_mode))
    return modes, {name: value.clone() for name, value in net.state_dict().items()}


def assert_as_uncompiled(
    model: nn.Module, graphs: int | None, *configs: LowModeConfig, compile: Any = "blocks"
) -> None:
    plain, _ = make(copy.deepcopy(model), False, *configs)
    net, backend = make(model, compile, *configs)
    expected_modes, expected = steps(plain)
    modes, found = steps(net)
    assert modes == expected_modes and len(set(modes)) == 2
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    if graphs is not None:
        assert len(backend.graphs) == graphs
    assert not any("forward" in vars(module) for module in model.modules())


def test_equal_blocks_are_compiled_once_a_mode() -> None:
    assert_as_uncompiled(Net(), 2 * 2)


class Compiled(nn.Module):
    """A block whose class compiles its forward already."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    @torch.compile(backend="eager")
    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(maps).relu()


def test_blocks_that_are_compiled_by_their_class_are_compiled_once_more() -> None:
    torch.manual_seed(0)
    ends = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model = nn.Sequential(ends[0], Compiled(), Compiled(), ends[1])
    assert_as_uncompiled(model, 2, compile=["1", "2"])


def test_blocks_with_other_plans_share_nothing() -> None:
    assert_as_uncompiled(Net(), 3 + 2, LowModeConfig(keep_convs=("blocks.1",)))


@pytest.mark.slow
def test_more_kinds_than_torch_compiles_of_one_function() -> None:
    assert_as_uncompiled(Net(tuple(range(1, 10))), 2 * 9)


def test_a_kernel_from_outside_a_block_keeps_its_own_plan() -> None:
    class Borrows(Block):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + F.conv2d(x, self.other[0], padding=1))

    model = Net()
    model.blocks = nn.ModuleList(Borrows(4) for _ in range(2))
    model.lent = nn.ModuleList(nn.Conv2d(4, 4, 3) for _ in range(2))
    for block, lent in zip(model.blocks, model.lent, strict=True):
        block.other = [lent.weight]
    assert_as_uncompiled(model, None, LowModeConfig(keep_convs=("lent.1",)))


@pytest.mark.parametrize(("reentrant", "graphs"), [(False, 2 * 2), (True, 2 * 2 * 2)])
def test_checkpointed_blocks(reentrant: bool, graphs: int) -> None:
    """A reentrant checkpoint computes twice what is compiled: without gradients, and with them."""
    assert_as_uncompiled(Net(call=lambda block, x: checkpoint(block, x, use_reentrant=reentrant)), graphs)


def test_hooks_run_in_both_modes_whenever_they_are_added() -> None:
    model = Net()
    plain, _ = make(copy.deepcopy(model), False)
    net, backend = make(model, "blocks")
    for each in (plain, net):
        steps(each, 2)
        each.blocks[1].register_forward_hook(lambda module, args, output: 2 * output)
    expected, found = (steps(each)[1] for each in (plain, net))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(backend.graphs) == 2 * 2


def test_a_replaced_block_is_compiled_and_planned_anew() -> None:
    torch.manual_seed(0)
    plain, _ = make(Net(), False)
    torch.manual_seed(0)
    net, _ = make(Net(), "blocks")
    for each in (plain, net):
        steps(each)
        torch.manual_seed(1)
        each.blocks[2] = Block(4, 6)
    with pytest.warns(UserWarning, match="recompiled"):
        _, found = steps(net)
    _, expected = steps(plain)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("change", ["set", "removed", "class"])
def test_a_forward_that_changes_counts_from_the_next_step(change: str) -> None:
    class Doubled(Block):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    finals = []
    for compile in (False, "blocks"):
        torch.manual_seed(0)
        net, _ = make(Net(), compile)
        block: Any = net.blocks[1]
        if change == "removed":
            block.forward = lambda x, block=block: 2 * Block.forward(block, x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a recompilation is reported
            steps(net, 2)
            if change == "set":
                old = block.forward
                block.forward = lambda x, old=old: 2 * old(x)
            elif change == "removed":
                del block.forward
            else:
                block.__class__ = Doubled
            finals.append(steps(net, 2)[1])
    assert all(torch.equal(finals[0][name], value) for name, value in finals[1].items())


def test_copies_compile_the_same_blocks_and_the_model_stays_clean() -> None:
    net, _ = make(Net(), "blocks")
    steps(net)
    again = copy.deepcopy(net)
    _, expected = steps(make(copy.deepcopy(net.ladder.model), False, p=0.0)[0], 1)
    again.schedule = BernoulliSchedule(p=0.0)
    _, found = steps(again, 1)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_named_blocks() -> None:
    assert_as_uncompiled(Net(), 2 * 1, compile=["blocks.0", "blocks.2"])
    with pytest.raises(PassError, match=r"compile: 'layer\*' matches no module that holds others"):
        make(Net(), ["layer*"])
    with pytest.raises(ValueError, match="compile='parts' is unknown; give True, False, 'blocks', or globs"):
        make(Net(), "parts")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("compile", ["blocks", ["blocks.*"]])
def test_a_scripted_block_runs_as_it_is(compile: Any) -> None:
    finals = []
    for how in (False, compile):
        torch.manual_seed(0)
        model = Net()  # twice, for torch copies no TorchScript that trains
        model.blocks[1] = torch.jit.script(model.blocks[1])
        net, backend = make(model, how)
        finals.append(steps(net))
    assert find_blocks(model) == ("blocks.0", "blocks.2", "blocks.3") and len(backend.graphs) == 2 * 2
    assert finals[0][0] == finals[1][0]
    assert all(torch.equal(finals[0][1][name], value) for name, value in finals[1][1].items())
    with pytest.raises(PassError, match=r"compile: 'blocks.1' matches no module that holds others"):
        make(model, ["blocks.1"])


@pytest.mark.parametrize("when", ["before the build", "after it"])
def test_blocks_that_the_user_compiles_run_so_in_both_modes(when: str) -> None:
    model, backend = Net((4, 4, 8)), RecordingBackend()
    plain, _ = make(copy.deepcopy(model), False)
    if when == "after it":
        net, _ = make(model, False)
    for block in model.blocks:
        block.compile(backend=backend)
    if when == "before the build":
        net, _ = make(model, False)
    (expected_modes, expected), (modes, found) = steps(plain), steps(net)
    assert modes == expected_modes and all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(backend.graphs) == 2 + 3  # of low steps each block has its own


def test_a_model_without_blocks_is_compiled_as_a_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.warns(UserWarning, match="compile='blocks': Sequential has no module"):
        net, backend = make(model, "blocks")
    steps(net)
    assert len(backend.graphs) == 2


def test_blocks_of_which_no_two_are_equal_are_told() -> None:
    with pytest.warns(
        UserWarning, match="compile='blocks': no two of the 3 blocks of Net are equal, .*give compile=True"
    ):
        assert make(Net((4, 5, 6)), "blocks")[0]._runner._blocks == ("blocks.0", "blocks.1", "blocks.2")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make(Net((4, 5, 6)), ["blocks.*"])
        make(Net((4, 5, 5)), "blocks")


@pytest.mark.parametrize(
    ("name", "count", "kinds", "first"),
    [
        ("resnet50", 16, 8, "layer1.0"),
        ("efficientnet_b0", 16, 12, "blocks.0.0"),
        ("convnext_tiny", 22, 8, "stem"),
        ("regnety_016", 26, 7, "stem"),
        ("vgg11", 2, 2, "features"),
    ],
)
def test_blocks_of_known_networks(name: str, count: int, kinds: int, first: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    blocks = find_blocks(model)
    assert (len(blocks), len({kind_of(model.get_submodule(path)) for path in blocks})) == (count, kinds)
    assert blocks[0] == first
