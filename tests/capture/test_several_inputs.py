"""Models of several inputs, captured, lowered and run: they take and return in every mode what the model does."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import (
    CLASSES,
    RETURNS,
    Classifier,
    ClassifierOutput,
    Network,
    Returning,
    full_gradients,
    images,
    labels,
    low_twin,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, Mode, build_ladder, build_pair, downsample
from passes.trees import tree_leaves

IMAGES, LABELS = images(4), labels(4)
SMALL = images(4, seed=1)[..., :8, :8]
MASKS = torch.randint(0, 4, (4, 16, 16), generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


def traced(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as those that log or check."""

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return wrapper


class Siamese(Network):
    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0, *, bias: Tensor | None = None) -> Tensor:
        difference = self.logits(left) * scale - self.logits(right)
        return difference if bias is None else difference + bias


class Views(Network):
    def forward(self, views: list[Tensor], labels: Tensor) -> Tensor:
        return sum(F.cross_entropy(self.logits(each), labels) for each in views)  # type: ignore[return-value]


class OneBatch(Network):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.logits(batch["image"])
        return {"loss": F.cross_entropy(logits, batch["label"]), "logits": logits}


class Starred(Network):
    def forward(self, *tensors: Tensor) -> Tensor:
        return self.logits(tensors[1]) * tensors[0][:, None]


class Named(Network):
    def forward(self, **tensors: Any) -> Tensor:
        return self.logits(tensors["image"]) * tensors["weight"][:, None] + tensors["bias"]


class Decorated(Network):
    @traced
    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(x)
        return F.cross_entropy(logits, labels), logits


class Segmenter(Network):
    """Brings its map to the targets' size by itself, as transformers' segmentation models do."""

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = F.interpolate(self.map(pixel_values), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Tempered(Network):
    """Takes a tensor of length one beside a batch of one."""

    def forward(self, x: Tensor, temperature: Tensor) -> Tensor:
        return self.logits(x) / temperature


WEIGHTS = torch.linspace(1, 2, 4)
CALLS: dict[str, tuple[Network, Any, Any]] = {
    "two images": (Siamese(), (IMAGES, SMALL), (0, 1)),
    "one of two is an image": (Siamese(), {"right": SMALL, "left": IMAGES, "scale": 2.0}, "left"),
    "a keyword that is a tensor": (Siamese(), {"left": IMAGES, "right": SMALL, "bias": torch.ones(CLASSES)}, (0, 1)),
    "a list of images": (Views(), ([IMAGES, SMALL], LABELS), None),
    "a dictionary in one argument": (OneBatch(), ({"label": LABELS, "image": IMAGES},), None),
    "starred": (Starred(), (WEIGHTS, IMAGES), None),
    "starred names": (Named(), {"weight": WEIGHTS, "bias": 1.0, "image": IMAGES}, None),
    "decorated": (Decorated(), {"labels": LABELS, "x": IMAGES}, None),
    "labels": (Classifier(), {"pixel_values": IMAGES, "labels": LABELS}, None),
    "no labels": (Classifier(), {"pixel_values": IMAGES}, None),
    "a constant": (Classifier(), {"pixel_values": IMAGES, "labels": LABELS, "return_dict": False}, None),
    "targets of full size": (Segmenter(), (IMAGES, MASKS), None),
    "a batch of one": (Classifier(), {"pixel_values": IMAGES[:1], "labels": LABELS[:1]}, None),
    "a batch and a tensor of one": (Tempered(), (IMAGES[:1], torch.full((1,), 2.0)), None),
}


@pytest.mark.parametrize("front_end", ["auto", "live", "fx", "export"])
@pytest.mark.parametrize("name", CALLS)
def test_each_mode_takes_and_returns_what_the_model_does(name: str, front_end: Any) -> None:
    model, example, said = CALLS[name]
    args, kwargs = ((), example) if isinstance(example, dict) else (example, {})
    pair = build_pair(model, example, front_end=front_end, images=said)
    net = LowModeModel(pair, BernoulliSchedule(1.0), compile=False).train()

    reference = copy.deepcopy(model).train()
    _assert_alike(net.run(Mode.FULL, *args, **kwargs), reference(*args, **kwargs), torch.equal)

    twin = low_twin(model)
    low_args, low_kwargs = _downsampled(pair, model, args, kwargs)
    expected, found = twin(*low_args, **low_kwargs), net(*args, **kwargs)
    _assert_alike(found, expected, functools.partial(torch.allclose, atol=1e-6))
    _loss(expected).backward()
    model.zero_grad()
    _loss(found).backward()
    for parameter, gradient in full_gradients(twin).items():
        torch.testing.assert_close(model.get_parameter(parameter).grad, gradient, atol=1e-5, rtol=1e-5)


def _downsampled(pair: Any, model: nn.Module, args: Any, kwargs: Any) -> Any:
    chosen = [pair.inputs.flatten(model, args, kwargs)[place] for place in pair.inputs.images]
    return tree_map_only(
        Tensor, lambda value: downsample(value, 2) if any(value is each for each in chosen) else value, (args, kwargs)
    )


def _loss(outputs: Any) -> Tensor:
    return sum((leaf.square().sum() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)), torch.zeros(()))


def _assert_alike(ours: Any, theirs: Any, same: Callable[[Tensor, Tensor], bool]) -> None:
    assert type(ours) is type(theirs)
    pairs = list(zip(tree_leaves(ours), tree_leaves(theirs), strict=True))
    assert pairs and all(same(a, b) if isinstance(b, Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("front_end", ["auto", "live", "fx", "export"])
def test_a_batch_of_one_stands_for_larger_ones_where_it_has_no_statistics(front_end: Any) -> None:
    class Pooled(Network):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(self.map(x).mean((2, 3), keepdim=True)).flatten(1))

    pair = build_pair(Pooled(), IMAGES[:1], front_end=front_end)
    assert pair.report.input_shape == (2, 3, 16, 16)
    assert pair.low(downsample(IMAGES[:2], 2)).shape == (2, CLASSES)


# What is returned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", ["auto", "live", "fx", "export"])
@pytest.mark.parametrize("kind", RETURNS)
def test_containers_come_back_as_they_are(kind: str, front_end: Any) -> None:
    model = Returning(kind=kind)
    config = LowModeConfig(restore_output=True)
    pair = build_pair(model, (IMAGES, LABELS), config, front_end=front_end)
    net = LowModeModel(pair, BernoulliSchedule(1.0), low_weight=0.5, compile=False).train()
    _assert_alike(net.run(Mode.FULL, IMAGES, LABELS), copy.deepcopy(model).train()(IMAGES, LABELS), torch.equal)

    twin = low_twin(model)
    expected = tree_leaves(twin(downsample(IMAGES, 2), LABELS))
    found = net(IMAGES, LABELS)
    assert type(found) is type(model(IMAGES, LABELS))
    for ours, theirs in zip(tree_leaves(found), expected, strict=True):
        if not isinstance(theirs, Tensor):
            assert ours == theirs
        elif theirs.ndim == 0:  # the loss has no size to restore
            torch.testing.assert_close(ours, theirs)
        else:
            full_size = F.interpolate(theirs, size=(16, 16), mode="bilinear", align_corners=False)
            torch.testing.assert_close(ours, full_size)
    # The weight of low steps reaches every tensor, whatever it stands in.
    sum(leaf.sum() for leaf in tree_leaves(found) if isinstance(leaf, Tensor)).backward()  # type: ignore[union-attr]
    halved = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad()
    sum(leaf.sum() for leaf in tree_leaves(net.run(Mode.LOW, IMAGES, LABELS)) if isinstance(leaf, Tensor)).backward()  # type: ignore[union-attr]
    for name, value in model.named_parameters():
        torch.testing.assert_close(halved[name], value.grad / 2)  # type: ignore[operator]


# The net around it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front_end", ["auto", "fx"])
def test_the_net_takes_the_call_in_any_spelling(front_end: Any) -> None:
    model = Classifier()
    pair = build_pair(model, {"pixel_values": IMAGES, "labels": LABELS}, front_end=front_end)
    net = LowModeModel(pair, BernoulliSchedule(1.0), compile=False).train()
    expected = net(pixel_values=IMAGES, labels=LABELS)["loss"]
    for found in (net(IMAGES, LABELS), net(labels=LABELS, pixel_values=IMAGES), net(IMAGES, LABELS, return_dict=None)):
        assert torch.equal(found["loss"], expected)
    assert torch.equal(net.eval()(IMAGES).logits, model.eval()(IMAGES).logits)


def test_a_graph_is_for_the_examples_call_and_the_model_itself_for_any() -> None:
    model = Classifier()
    example = {"pixel_values": IMAGES, "labels": LABELS}
    by_graph, live = (
        LowModeModel(build_pair(model, example, front_end=name), BernoulliSchedule(1.0), compile=False).train()
        for name in ("fx", "auto")
    )
    with pytest.raises(ValueError, match=r"^Classifier is called with \(tensor\), but its modes were built for"):
        by_graph(IMAGES)
    assert list(live(IMAGES)) == ["logits"]
    assert torch.equal(live(IMAGES)["logits"], live(**example)["logits"])
    with pytest.raises(
        ValueError, match=r"^more has shape \(4, 3, 16, 16\), as large as the images .* build the modes with an"
    ):
        live(IMAGES, more=IMAGES)


def test_a_list_may_hold_any_number_of_images_unless_some_were_named() -> None:
    model = Views()
    twin = low_twin(model)
    for example, said in [(([IMAGES, IMAGES], LABELS), None), (([IMAGES], LABELS), None)]:
        net = LowModeModel(build_pair(model, example, images=said), BernoulliSchedule(1.0), compile=False).train()
        torch.testing.assert_close(net([IMAGES] * 3, LABELS), twin([downsample(IMAGES, 2)] * 3, LABELS))
    pair = build_pair(model, ([IMAGES, SMALL], LABELS), images="views.0")
    net = LowModeModel(pair, BernoulliSchedule(1.0), compile=False).train()
    torch.testing.assert_close(net([IMAGES, SMALL], LABELS), twin([downsample(IMAGES, 2), SMALL], LABELS))


def test_what_stands_beside_images_in_a_dictionary_keeps_its_size() -> None:
    class Weighted(Network):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.logits(batch["image"]) * batch["weights"].sum((1, 2), keepdim=True)[..., 0]

    batch = {"image": IMAGES, "weights": torch.linspace(0, 1, 4 * 6 * 6).view(4, 6, 6)}
    model = Weighted()
    net = LowModeModel(build_pair(model, (batch,)), BernoulliSchedule(1.0), compile=False).train()
    torch.testing.assert_close(net(batch), low_twin(model)({**batch, "image": downsample(IMAGES, 2)}))


def test_a_ladder_of_several_inputs_trains_compiled() -> None:
    model = Classifier()
    ladder = build_ladder(
        model, {"pixel_values": IMAGES, "labels": LABELS}, [LowModeConfig(ratio=4), LowModeConfig(ratio=2)]
    )
    compiled = LowModeModel(ladder, BernoulliSchedule(0.0), compile_options={"backend": "aot_eager"}).train()
    plain = LowModeModel(ladder, BernoulliSchedule(0.0), compile=False).train()
    for mode in ladder.modes:
        ours, theirs = (net.run(mode, labels=LABELS, pixel_values=IMAGES) for net in (compiled, plain))
        assert type(ours) is ClassifierOutput and torch.equal(ours["loss"], theirs["loss"])


def test_targets_that_low_mode_gives_no_map_of_are_refused_and_a_head_may_be_adapted() -> None:
    class Fixed(Network):
        def forward(self, x: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.map(x), targets)

    with pytest.raises(ValueError, match=r"at cross_entropy, given 4×4×8×8 and 4×16×16: .*set adapt_head=True"):
        build_pair(Fixed(), (IMAGES, MASKS))
    pair = build_pair(Fixed(), (IMAGES, MASKS), LowModeConfig(adapt_head=True))
    twin = low_twin(pair.model)  # type: ignore[arg-type]
    full_size = F.interpolate(twin.map(downsample(IMAGES, 2)), size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pair.low(downsample(IMAGES, 2), MASKS), F.cross_entropy(full_size, MASKS))


class Maps(Network):
    """Returns a map of each image; the loss is on the first, brought to the size of its targets."""

    def forward(self, left: Tensor, right: Tensor, targets: Tensor) -> dict[str, Any]:
        maps = self.map(left), self.map(right)
        resized = F.interpolate(maps[0], size=targets.shape[1:])
        return {"loss": F.cross_entropy(resized, targets), "maps": maps}


@pytest.mark.parametrize("on", ["device", "host"])
@pytest.mark.parametrize(("batch", "left", "right"), [(4, 16, 8), (3, 16, 8), (2, 24, 20), (1, 16, 16)])
def test_restored_maps_have_the_sizes_of_this_call(batch: int, left: int, right: int, on: Any) -> None:
    model = Maps()
    pair = build_pair(model, (IMAGES, SMALL, MASKS), LowModeConfig(restore_output=True), images=(0, 1))
    net = LowModeModel(pair, BernoulliSchedule(1.0), compile=False, downsample_on=on).train()
    call = [torch.randn(batch, 3, left, left), torch.randn(batch, 3, right, right)]
    targets = torch.zeros(batch, left, left, dtype=torch.long)
    given = call if on == "device" else [downsample(each, 2) for each in call]
    first, second = net.run(Mode.LOW, *given, targets)["maps"]
    assert (first.shape, second.shape) == ((batch, 4, left, left), (batch, 4, right, right))
    small = low_twin(model).map(downsample(call[1], 2))
    torch.testing.assert_close(second, F.interpolate(small, size=(right, right), mode="bilinear", align_corners=False))


@pytest.mark.parametrize("shape", [(1, 7, 9), (4, 16, 16), (1, 2, 16, 16), (3,)])
def test_images_are_distinguished_from_maps_that_come_before_them(shape: tuple[int, ...]) -> None:
    class Head(Network):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4 * 16 * 16, CLASSES)

        def forward(self, prior: Tensor, x: Tensor) -> Tensor:
            return self.fc(self.map(x).flatten(1)) * prior.mean()

    class Halving(Network):
        def forward(self, prior: Tensor, x: Tensor) -> Tensor:
            pixels = F.pixel_unshuffle(x, 4) * prior.mean()
            return self.logits(F.pixel_shuffle(pixels, 4))

    model, prior = Head(), torch.rand(shape)
    with pytest.raises(ValueError, match=r"fc needs a flattened map of fixed size .* set adapt_head=True"):
        build_pair(model, (prior, IMAGES), images="x")
    pair = build_pair(model, (prior, IMAGES), LowModeConfig(adapt_head=True), images="x")
    net, twin = LowModeModel(pair, BernoulliSchedule(1.0), compile=False).train(), low_twin(model)
    full_size = F.interpolate(twin.map(downsample(IMAGES, 2)), size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(net(prior, IMAGES), twin.fc(full_size.flatten(1)) * prior.mean())
    with pytest.raises(
        ValueError, match=r"^the model itself can't take 6×6 inputs: .* are 4×4 and 8×8: set size_multiple=4"
    ):
        build_pair(Halving(), (prior, IMAGES[..., :12, :12]), images="x")


def test_a_forward_of_the_instances_own_is_followed() -> None:
    model = Classifier()
    model.forward = lambda x: model.logits(x) * 2  # type: ignore[method-assign, assignment]
    pair = build_pair(model, IMAGES)
    assert torch.equal(pair.full(IMAGES), model.train().logits(IMAGES) * 2)


@pytest.mark.parametrize("front_end", ["fx", "export"])
def test_capturing_leaves_forward_where_it_is(front_end: Any) -> None:
    model = Classifier()
    before = set(vars(model))
    build_pair(model, {"pixel_values": IMAGES, "labels": LABELS}, front_end=front_end)
    assert set(vars(model)) == before
