"""Dropped max pools: which ones, what the low graph computes then, and what is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import named
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, ModePair, PassError, build_pair

quiet = pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")


def two_pools() -> nn.Sequential:
    return named(
        stem=nn.Conv2d(3, 4, 3, padding=1),
        first=nn.MaxPool2d(3, 2, 1),
        body=nn.Conv2d(4, 4, 3, padding=1),
        second=nn.MaxPool2d(2),
    )


def build(model: nn.Module, which: Any, **options: Any) -> ModePair:
    config = LowModeConfig(drop_maxpools=which, kernel_ratio=1, **options)
    return build_pair(model, torch.zeros(2, 3, 16, 16), config)


def dropped(pair: ModePair) -> list[tuple[str, str, str]]:
    return [(change.site, change.before, change.after) for change in pair.report.of("drop_maxpools").changes]


def refusal(model: nn.Module, which: Any) -> str:
    with pytest.raises(PassError) as error:
        build(model, which)
    return str(error.value)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("none", []),
        ("stem", ["first"]),
        ("all", ["first", "second"]),
        (["second"], ["second"]),
        (["*st", "sec*"], ["first", "second"]),
    ],
)
def test_which_pools_are_dropped(which: Any, expected: list[str]) -> None:
    pair = build(two_pools(), which)
    assert [site for site, _, _ in dropped(pair)] == expected
    kept = [skip.site for skip in pair.report.of("drop_maxpools").skips]
    assert kept == [site for site in ("first", "second") if site not in expected]
    assert all(skip.reason == "kept: not in drop_maxpools" for skip in pair.report.of("drop_maxpools").skips)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.max_pool2d": lambda x: F.max_pool2d(x, 3, padding=1, stride=2),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, [3], [2], [1]),
    "aten.max_pool2d": lambda x: torch.ops.aten.max_pool2d(x, [3, 3], [2, 2], [1, 1]),
    "aten.max_pool2d.default": lambda x: torch.ops.aten.max_pool2d.default(x, [3, 3], [2, 2], [1, 1]),
    "Tensor first by name": lambda x: F.max_pool2d(input=x, kernel_size=(3, 3), stride=2, padding=1),
}


@pytest.mark.parametrize("name", POOLS)
def test_every_spelling_is_dropped(name: str) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return POOLS[name](self.conv(x))

    model = Pooled()
    pair = build(model, "all")
    images = torch.randn(2, 3, 8, 8)
    assert [before for _, before, _ in dropped(pair)] == ["3×3 stride 2×2"]
    assert torch.equal(pair.low(images), model.conv(images))


def test_the_report_says_what_was_dropped() -> None:
    assert dropped(build(two_pools(), "all")) == [
        ("first", "3×3 stride 2×2", "dropped"),
        ("second", "2×2 stride 2×2", "dropped"),
    ]


def test_low_mode_computes_the_rest_of_the_model() -> None:
    model = two_pools()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(build(model, "all").low(images), model.body(model.stem(images)))
    assert torch.equal(build(model, "stem").low(images), model.second(model.body(model.stem(images))))
    assert torch.equal(build(model, "none").low(images), model(images))


def test_full_mode_keeps_its_pools() -> None:
    model = two_pools()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(build(model, "all").full(images), model(images))


def test_a_dropped_pool_gives_the_later_kernels_a_larger_map() -> None:
    pair = build_pair(two_pools(), torch.zeros(2, 3, 16, 16), LowModeConfig(drop_maxpools="stem"))
    assert pair.low(torch.zeros(2, 3, 8, 8)).shape == (2, 4, 4, 4)
    assert pair.full(torch.zeros(2, 3, 16, 16)).shape == (2, 4, 4, 4)


def test_the_stem_pool_is_the_first_on_each_path() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.left, self.right, self.late = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.late(self.left(x) + self.right(-x))

    assert [site for site, _, _ in dropped(build(Branches(), "stem"))] == ["left", "right"]


@quiet
@pytest.mark.parametrize("which", ["all", ["one"], ["two"]])
def test_a_pool_that_feeds_a_pool(which: Any) -> None:
    model = named(stem=nn.Conv2d(3, 4, 3, padding=1), one=nn.MaxPool2d(2), two=nn.MaxPool2d(3, 1), act=nn.ReLU())
    images = torch.randn(2, 3, 8, 8)
    expected = model.stem(images)
    if which == ["two"]:
        expected = model.one(expected)
    if which == ["one"]:
        expected = model.two(expected)
    assert torch.equal(build(model, which).low(images), expected.relu())


class Pooled(nn.Module):
    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3, padding=1), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(kernel_size=2, stride=2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, kernel_size=2),
        lambda x: F.max_pool2d(input=x, kernel_size=(2, 2), stride=[2, 2]),
        lambda x: torch.max_pool2d(x, 2),
        lambda x: torch.max_pool2d(x, [2], stride=[2]),
    ],
)
def test_every_spelling_of_a_max_pool(pool: Any) -> None:
    model = Pooled(pool)
    pair = build(model, "all")
    assert [(before, after) for _, before, after in dropped(pair)] == [("2×2 stride 2×2", "dropped")]
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(pair.low(images), model.conv(images))


@pytest.mark.parametrize(
    ("conv", "pool", "size"),
    [(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2), "2 stride 2"), (nn.Conv3d(3, 4, 3), nn.MaxPool3d(2), "2×2×2 stride 2×2×2")],
    ids=["1-D", "3-D"],
)
def test_other_dimensions(conv: Any, pool: nn.Module, size: str) -> None:
    shape = (2, 3, *[8] * len(conv.kernel_size))
    config = LowModeConfig(drop_maxpools="all", pool_convs=["conv"])
    pair = build_pair(named(conv=conv, pool=pool), torch.zeros(shape), config)
    assert dropped(pair) == [("pool", size, "dropped")]
    images = torch.randn(shape)
    kernel = conv.weight.mean(tuple(range(2, conv.weight.ndim)), keepdim=True)
    convolve = F.conv1d if len(shape) == 3 else F.conv3d
    inner = images[(..., *[slice(1, -1)] * len(conv.kernel_size))]
    torch.testing.assert_close(pair.low(images), convolve(inner, kernel, conv.bias))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (["thrid"], "drop_maxpools: 'thrid' matches no max pool; near matches: first, second"),
        (["stem"], "drop_maxpools: 'stem' matches no max pool; near matches: first, second"),
    ],
)
def test_a_glob_that_matches_nothing(which: list[str], message: str) -> None:
    assert refusal(two_pools(), which) == message


def test_a_glob_where_there_is_no_max_pool() -> None:
    model = named(stem=nn.Conv2d(3, 4, 3), body=nn.Conv2d(4, 4, 3))
    assert refusal(model, ["pool"]) == "drop_maxpools: 'pool' matches nothing: this model has no max pool; leave it out"


@pytest.mark.parametrize("which", ["stem", "all"])
def test_a_named_set_that_finds_none_is_noted(which: str) -> None:
    pair = build(named(stem=nn.Conv2d(3, 4, 3), body=nn.Conv2d(4, 4, 3)), which)
    assert pair.report.notes[0] == f"drop_maxpools='{which}' found no max pool"


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        (nn.MaxPool2d(2, return_indices=True), "pool"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True), "max_pool2d_with_indices"),
        (lambda x: F.max_pool2d_with_indices(x, 2), "max_pool2d_with_indices"),
    ],
)
def test_a_pool_whose_indices_are_used_is_refused(pool: Any, name: str) -> None:
    message = f"drop_maxpools: {name} returns indices that are used; keep this max pool"
    assert refusal(Pooled(pool), "all") == message
    assert dropped(build(Pooled(pool), "none")) == []


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2)), "pool.1 is padded just for it (pool_0)"),
        (nn.Sequential(nn.ConstantPad2d(1, -9.0), nn.MaxPool2d(3, 2)), "pool.1 is padded just for it (pool_0)"),
        (lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2), "max_pool2d is padded just for it (pad)"),
    ],
)
def test_a_pool_whose_input_is_padded_by_hand_is_refused(pool: Any, name: str) -> None:
    assert refusal(Pooled(pool), "all") == f"drop_maxpools: the input of {name}; keep this max pool"


class Branches(nn.Module):
    """A convolution and a max pool that halve the same maps, and what joins them."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.pool, self.join = nn.MaxPool2d(2), join

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.join(self.down(x), self.pool(x))


def test_a_join_that_no_longer_fits_is_named() -> None:
    assert refusal(Branches(operator.add), "all") == (
        "branches don't fit at add: 2×4×4×4 and 2×4×8×8 after pool changed; "
        "keep these sites (drop_maxpools, strides), or change every branch alike"
    )
    pair = build(Branches(operator.add), "all", strides={"down": 1})
    images = torch.randn(2, 3, 8, 8)
    stem = pair.model.stem(images)
    down = F.conv2d(stem, pair.model.down.weight, pair.model.down.bias, 1, 1)
    torch.testing.assert_close(pair.low(images), down + stem)


def test_a_concatenation_that_no_longer_fits_is_named() -> None:
    message = refusal(Branches(lambda one, other: torch.cat([one, other], dim=1)), ["pool"])
    assert message.startswith("branches don't fit at cat: 2×4×4×4 and 2×4×8×8 after pool changed; keep these")
