"""What an example says of a model's call: its tensors, which of them are images, and which calls are the same."""

from __future__ import annotations

import copy
import enum
import functools
import pickle
from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from calls import Classifier, Network, images, labels
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lowmode_fx.capture.inputs import ModelInputs, model_inputs

IMAGES, LABELS = images(), labels()
OTHERS = torch.ones(2, 3, 8, 8)


class Takes(Network):
    """A model with this ``forward``, of which only the parameters count."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = forward  # type: ignore[method-assign]


def found(model: nn.Module, example: Any, said: Any = None) -> tuple[list[str], list[str]]:
    """The names of all leaves, and of the images among them."""
    inputs, tensors = model_inputs(model, example, said)
    assert [leaf.shape for leaf in inputs.leaves] == [tuple(tensor.shape) for tensor in tensors]
    return [leaf.name for leaf in inputs.leaves], [inputs.leaves[place].name for place in inputs.images]


# What an example may be -----------------------------------------------------------------------------------------------


def test_one_tensor() -> None:
    inputs, (tensor,) = model_inputs(Takes(lambda x: x), IMAGES)
    assert tensor is IMAGES and inputs.is_one_tensor
    assert (inputs.image.name, inputs.image.shape, inputs.image.dtype) == ("x", (2, 3, 16, 16), torch.float32)
    assert not model_inputs(Takes(lambda x: x), {"x": IMAGES})[0].is_one_tensor
    assert not model_inputs(Takes(lambda x, y=None: x), (IMAGES, None))[0].is_one_tensor


@pytest.mark.parametrize(
    ("forward", "example", "leaves", "image"),
    [
        (lambda x, y: x, (IMAGES, LABELS), ["x", "y"], "x"),
        (lambda x, y: x, [LABELS, IMAGES], ["x", "y"], "y"),
        (lambda x, y: x, {"y": LABELS, "x": IMAGES}, ["y", "x"], "x"),
        (lambda x, y: x, UserDict(x=IMAGES, y=LABELS), ["x", "y"], "x"),
        (lambda x, *, y=None, z=3: x, {"x": IMAGES, "y": LABELS}, ["x", "y"], "x"),
        (lambda *args: args, (LABELS, IMAGES), ["args_0", "args_1"], "args_1"),
        (lambda x, *args: x, (LABELS, IMAGES, LABELS), ["x", "args_0", "args_1"], "args_0"),
        (lambda **kwargs: kwargs, {"class": LABELS, "x": IMAGES}, ["_class", "x"], "x"),
        (lambda batch: batch, ({"image": IMAGES, "boxes": torch.ones(2, 7, 4)},), ["batch_image", "batch_boxes"],
         "batch_image"),
        (lambda x, mask: x, (IMAGES, torch.ones(2, 16, 16)), ["x", "mask"], "x"),
        (lambda x, y_0, y: x, (IMAGES, LABELS, [LABELS]), ["x", "y_0", "y_0_"], "x"),
    ],
)  # fmt: skip
def test_the_float_tensor_with_the_most_dimensions_is_the_images(
    forward: Callable[..., Any], example: Any, leaves: list[str], image: str
) -> None:
    assert found(Takes(forward), example) == (leaves, [image])


class Views(NamedTuple):
    left: Tensor
    right: Tensor


@pytest.mark.parametrize(
    ("example", "leaves"),
    [
        (([IMAGES, OTHERS],), ["views_0", "views_1"]),
        (((IMAGES, OTHERS), LABELS), ["views_0", "views_1"]),
        (([[IMAGES, IMAGES], [OTHERS]],), ["views_0_0", "views_0_1", "views_1_0"]),
        (([{"image": IMAGES, "weight": torch.ones(2)}, {"image": OTHERS, "weight": torch.ones(2)}],),
         ["views_0_image", "views_1_image"]),
    ],
)  # fmt: skip
def test_the_tensors_of_one_list_are_images_together(example: Any, leaves: list[str]) -> None:
    assert found(Takes(lambda views, labels=None: views), example)[1] == leaves


@pytest.mark.parametrize(
    ("example", "said", "chosen"),
    [
        ({"left": IMAGES, "right": OTHERS}, "right", ["right"]),
        ({"left": IMAGES, "right": OTHERS}, ("left", "right"), ["left", "right"]),
        ({"right": OTHERS, "left": IMAGES}, 0, ["left"]),
        ((IMAGES, OTHERS), (1, 0), ["left", "right"]),
        ((IMAGES, OTHERS), ["right"], ["right"]),
        ((IMAGES, {"map": OTHERS, "mask": OTHERS}), "right.map", ["right_map"]),
        ((IMAGES, [OTHERS, OTHERS]), "right", ["right_0", "right_1"]),
        ((IMAGES, [OTHERS, OTHERS]), ("left", "right.1"), ["left", "right_1"]),
        ((IMAGES, {"map": OTHERS, "boxes": torch.ones(2, 7, 4)}), "right", ["right_map"]),
    ],
)
def test_what_is_said_counts(example: Any, said: Any, chosen: list[str]) -> None:
    assert found(Takes(lambda left, right: left), example, said)[1] == chosen


def test_arguments_of_a_starred_parameter_are_named_by_their_place_or_together() -> None:
    model = Takes(lambda *views: views)
    assert found(model, (IMAGES, OTHERS), 1)[1] == ["views_1"]
    assert found(model, (IMAGES, OTHERS), "views.0")[1] == ["views_0"]
    assert found(model, (IMAGES, OTHERS), "views")[1] == ["views_0", "views_1"]
    assert found(Takes(lambda **views: views), {"a": IMAGES, "b": OTHERS}, "b")[1] == ["b"]


class Colour(enum.Enum):
    RED = 1


def test_what_is_no_tensor_stays_as_it_is() -> None:
    model = Takes(lambda x, a, b, c, *, d, e, f: x)
    others = {"a": None, "b": 3, "c": True, "d": "max", "e": Colour.RED, "f": {}}
    inputs, tensors = model_inputs(model, {"x": IMAGES, **others})
    args, kwargs = inputs.call(tensors)
    assert args == () and kwargs.pop("x") is IMAGES and kwargs == others
    assert inputs.are_tensors == (True, False, False, False, False, False)


def test_blanks_and_other_sides() -> None:
    model = Takes(lambda views, labels: views)
    inputs, _ = model_inputs(model, ([IMAGES, OTHERS], LABELS))
    smaller = inputs.with_image_sides(lambda sides: tuple(side // 2 for side in sides))
    assert [leaf.shape for leaf in smaller.leaves] == [(2, 3, 8, 8), (2, 3, 4, 4), (2,)]
    blank = smaller.blank("meta", torch.float64)
    assert [(each.shape, each.dtype) for each in blank] == [
        ((2, 3, 8, 8), torch.float64), ((2, 3, 4, 4), torch.float64), ((2,), torch.int64)
    ]  # fmt: skip
    assert smaller.call(blank) == (([blank[0], blank[1]], blank[2]), {})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda inputs: pickle.loads(pickle.dumps(inputs))])
def test_a_copy_takes_the_same_calls(copied: Callable[[ModelInputs], ModelInputs]) -> None:
    model = Classifier()
    inputs, tensors = model_inputs(model, {"pixel_values": IMAGES, "labels": LABELS, "return_dict": False})
    again = copied(inputs)
    assert again == inputs and again.call(tensors) == inputs.call(tensors)
    assert again.flatten(model, (IMAGES, LABELS), {"return_dict": False})[1] is LABELS


# One call, written in several ways -----------------------------------------------------------------------------------


def flatten(model: nn.Module, example: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    return model_inputs(model, example)[0].flatten(model, args, kwargs)


EXAMPLES = [
    (IMAGES, LABELS),
    {"pixel_values": IMAGES, "labels": LABELS},
    {"labels": LABELS, "pixel_values": IMAGES},
    (IMAGES, LABELS, None),
    {"pixel_values": IMAGES, "labels": LABELS, "return_dict": None},
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_call_is_the_examples_however_it_is_written(example: Any) -> None:
    x, y = torch.ones_like(IMAGES), torch.zeros_like(LABELS)
    model = Classifier()
    inputs, _ = model_inputs(model, example)
    expected = [{"pixel_values": x, "labels": y}[leaf.name] for leaf in inputs.leaves]
    for args, kwargs in [
        ((x, y), {}),
        ((x,), {"labels": y}),
        ((), {"pixel_values": x, "labels": y}),
        ((), {"labels": y, "pixel_values": x}),
        ((x, y, None, None), {}),
        ((x, y), {"output_hidden_states": None}),
    ]:
        assert all(map(lambda a, b: a is b, inputs.flatten(model, args, kwargs), expected)), kwargs
    assert inputs.call(expected)[1].keys() == (example.keys() if isinstance(example, dict) else set())


def test_starred_arguments_and_keywords_in_any_order() -> None:
    model = Takes(lambda x, *args, scale=1.0, **kwargs: x)
    inputs, tensors = model_inputs(model, {"b": LABELS, "x": IMAGES, "a": OTHERS[0, 0]})
    found = inputs.flatten(model, (IMAGES,), {"a": OTHERS[0, 0], "scale": 1.0, "b": LABELS})
    assert found[0] is LABELS and found[1] is IMAGES and torch.equal(found[2], tensors[2])
    batch = {"image": IMAGES, "weight": LABELS}
    found = flatten(Takes(lambda batch: batch), (batch,), {"weight": LABELS, "image": OTHERS})
    assert found[0] is OTHERS and found[1] is LABELS


@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        ((IMAGES,), {}, "(tensor)"),
        ((IMAGES, LABELS, True), {}, "(tensor, tensor, True)"),
        ((IMAGES, LABELS), {"return_dict": False}, "(tensor, tensor, return_dict=False)"),
        ((IMAGES, LABELS), {"mask": LABELS}, "(tensor, tensor, mask=tensor)"),
        ((IMAGES, None), {}, "(tensor, None)"),
        ((IMAGES, [LABELS, 1]), {}, "(tensor, [tensor, 1])"),
        ((), {"labels": LABELS}, "(labels=tensor)"),
    ],
)
@pytest.mark.parametrize("example", EXAMPLES[:2])
def test_another_call_is_refused(args: Any, kwargs: Any, shown: str, example: Any) -> None:
    with pytest.raises(ValueError) as error:
        flatten(Classifier(), example, *args, **kwargs)
    built = "(tensor, tensor)" if isinstance(example, tuple) else "(pixel_values=tensor, labels=tensor)"
    assert str(error.value) == (
        f"Classifier is called with {shown}, but its modes were built for {built}; build them with an example of this "
        "call"
    )


def test_a_constant_of_another_value_or_kind_is_another_call() -> None:
    model = Takes(lambda x, scale, flag=False: x)
    inputs, _ = model_inputs(model, (IMAGES, 2))
    assert inputs.flatten(model, (IMAGES, 2), {"flag": False})
    for scale in (3, 2.0, True, None, np.arange(2), [2], torch.tensor(2)):
        with pytest.raises(ValueError, match="is called with"):
            inputs.flatten(model, (IMAGES, scale), {})
    with pytest.raises(ValueError, match=r"is called with \(tensor, 2, flag=True\)"):
        inputs.flatten(model, (IMAGES, 2), {"flag": True})


def test_a_default_that_is_a_tensor_is_the_default_alone() -> None:
    default = torch.ones(1)
    model = Takes(lambda x, scale=default: x)
    inputs, _ = model_inputs(model, IMAGES)
    assert [leaf.name for leaf in inputs.leaves] == ["x"]
    assert inputs.flatten(model, (IMAGES, default), {})[0] is IMAGES
    with pytest.raises(ValueError, match=r"is called with \(tensor, tensor\), but its modes were built for \(tensor\)"):
        inputs.flatten(model, (IMAGES, torch.zeros(1)), {})


def test_decorators_that_keep_the_signature_and_others() -> None:
    def kept(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    def giving(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(x: Tensor) -> Any:
            return function(x, 1.0)

        return wrapper

    def bare(*args: Any, **kwargs: Any) -> Any: ...

    both = {"y": LABELS, "x": IMAGES}
    assert found(Takes(kept(lambda x, y: x)), both) == (["y", "x"], ["x"])
    assert flatten(Takes(kept(lambda x, y: x)), both, IMAGES, LABELS)[0] is LABELS
    assert found(Takes(giving(lambda x, scale: x)), IMAGES) == (["x"], ["x"])
    # Without a signature, a call is known as it is written.
    assert flatten(Takes(bare), both, x=IMAGES, y=LABELS)[0] is LABELS
    with pytest.raises(
        ValueError, match=r"called with \(tensor, tensor\), but its modes were built for \(y=tensor, x="
    ):
        flatten(Takes(bare), both, IMAGES, LABELS)


def test_compiled_code_has_no_signature() -> None:
    assert found(Takes(torch.relu), IMAGES) == (["input_0"], ["input_0"])
    assert flatten(Takes(torch.relu), IMAGES, OTHERS)[0] is OTHERS


# Refusals, in one line each -------------------------------------------------------------------------------------------


@dataclass
class Targets:
    boxes: Tensor
    size: int


def refusal(model: nn.Module, example: Any, said: Any = None) -> str:
    with pytest.raises((TypeError, ValueError)) as error:
        model_inputs(model, example, said)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("forward", "example", "said", "message"),
    [
        (lambda left, right: left, (IMAGES, OTHERS), None,
         "the images are ambiguous: 'left', 'right'; give those to downsample, as images='left' or images=('left', "
         "'right')"),
        (lambda *args: args, (IMAGES, OTHERS), None,
         "the images are ambiguous: 'args.0', 'args.1'; give those to downsample, as images='args.0' or "
         "images=('args.0', 'args.1')"),
        (lambda batch: batch, ({"image": IMAGES, "mask": OTHERS},), None,
         "the images are ambiguous: 'batch.image', 'batch.mask'; give those to downsample, as images='batch.image' "
         "or images=('batch.image', 'batch.mask')"),
        (lambda batch: batch, ({"image": IMAGES, "mask": OTHERS},), "batch",
         "the images are ambiguous: 'batch.image', 'batch.mask'; give those to downsample, as images='batch.image' "
         "or images=('batch.image', 'batch.mask')"),
        (lambda x, y: x, (IMAGES, LABELS), "z", "images='z' is not a tensor of the example; give one of x, y"),
        (lambda x, y: x, (IMAGES, LABELS), 2, "images=2 is not a tensor of the example; give one of x, y"),
        (lambda x, y: x, (IMAGES, LABELS), True, "images=True is not a tensor of the example; give one of x, y"),
        (lambda x, y: x, (IMAGES, LABELS), "y",
         "images='y' holds (2,) of torch.int64; give one that holds a float tensor (N, C, *S)"),
        (lambda x, y: x, (IMAGES, LABELS), (),
         "images=() is empty; give the arguments that hold images, by name or position"),
        (lambda x: x, IMAGES.to(torch.uint8), None,
         "x is (2, 3, 16, 16) of torch.uint8, but images need a floating dtype; scale them first, as "
         "images.float() / 255"),
        (lambda x, boxes: x, (IMAGES.long(), torch.ones(2, 7, 4)), None,
         "x is (2, 3, 16, 16) of torch.int64, but images need a floating dtype; scale them first, as "
         "images.float() / 255, or give the images: images='boxes'"),
        (lambda x: x, torch.ones(2, 3), None,
         "example_input is (2, 3) of torch.float32; give a float tensor (N, C, *S), as torch.randn(2, 3, 224, "
         "224), or a tuple or mapping of forward's arguments that holds one"),
        (lambda x: x, None, None,
         "example_input is of type NoneType, without a tensor; give a float tensor (N, C, *S), as torch.randn(2, 3, "
         "224, 224), or a tuple or mapping of forward's arguments that holds one"),
        (lambda x: x, torch.ones(0, 3, 16, 16), None,
         "example_input is (0, 3, 16, 16) of torch.float32; give a float tensor (N, C, *S), as torch.randn(2, "
         "3, 224, 224), or a tuple or mapping of forward's arguments that holds one"),
        (lambda x, y, *, scale=1.0: x, IMAGES, None,
         "Takes.forward(x, y, *, scale=1.0) does not take these arguments: missing a required argument: 'y'; "
         "give all arguments, as a tuple or as a mapping of keywords, or give the part that takes only images as "
         "submodule="),
        (lambda x: x, (IMAGES, LABELS), None,
         "Takes.forward(x) does not take these arguments: too many positional arguments (of a batch of images and "
         "labels, give the images alone); give all arguments, as a tuple or as a mapping of keywords, or give the part "
         "that takes only images as submodule="),
        (lambda batch: batch, {"image": IMAGES, "label": LABELS}, None,
         "Takes.forward(batch) does not take these arguments: missing a required argument: 'batch'; give all "
         "arguments, as a tuple or as a mapping of keywords, in a tuple of one if forward takes the mapping itself, or "
         "give the part that takes only images as submodule="),
        (lambda x, targets: x, (IMAGES, Targets(OTHERS, 3)), None,
         "targets is of type Targets, which may hide tensors; give a tensor, or a tuple, list or dictionary "
         "of tensors, or register the class: torch.export.register_dataclass(Targets)"),
        (lambda x, y: x, (IMAGES, {"y": np.ones(3)}), None,
         "y.y is of type ndarray, (3,) of float64; give a tensor, as torch.from_numpy(array).float()"),
        (lambda x: x, np.ones((2, 3, 8, 8), np.uint8), None,
         "x is of type ndarray, (2, 3, 8, 8) of uint8; give a tensor, as torch.from_numpy(array).float() / 255"),
        (lambda x: x, (2, 3, 32, 32), None,
         "example_input is (2, 3, 32, 32), a shape; give an example of it, as torch.randn(2, 3, 32, 32)"),
        (lambda x: x, IMAGES.shape, None,
         "example_input is (2, 3, 16, 16), a shape; give an example of it, as torch.randn(2, 3, 16, 16)"),
        (lambda x: x, Image.new("L", (4, 4)), None,
         "x is of type Image; give a batch of tensors, as torchvision.transforms.ToTensor()(image)[None]"),
        (lambda x: x, TensorDataset(IMAGES), None,
         "x is of type TensorDataset; give the images of one batch, as of next(iter(DataLoader(dataset)))"),
        (lambda x: x, DataLoader(TensorDataset(IMAGES)), None,
         "x is of type DataLoader; give the images of one batch, as of next(iter(loader))"),
        (lambda x: x, [IMAGES[0], IMAGES[1]], None,
         "Takes.forward(x) does not take these arguments: too many positional arguments (of a list of images, give "
         "torch.stack(images)); give all arguments, as a tuple or as a mapping of keywords, or give the part that "
         "takes only images as submodule="),
    ],
)  # fmt: skip
def test_refusals(forward: Callable[..., Any], example: Any, said: Any, message: str) -> None:
    assert refusal(Takes(forward), example, said) == message


@pytest.mark.parametrize(("shape", "order"), [((2, 224, 224, 3), "0, 3, 1, 2"), ((1, 8, 4, 3), "0, 3, 1, 2")])
def test_images_with_channels_last_are_refused(shape: tuple[int, ...], order: str) -> None:
    assert refusal(Takes(lambda x: x), torch.zeros(shape)) == (
        f"x is {shape}, but the first convolution takes 3 channels: channels seem to be last; give images "
        f"(N, C, *S), as images.permute({order})"
    )


def test_channels_of_other_dimensions() -> None:
    volume = nn.Sequential(nn.Conv3d(1, 4, 3))
    assert "as images.permute(0, 4, 1, 2, 3)" in refusal(volume, torch.zeros(2, 8, 8, 8, 1))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv3d(1, 4, 3), (2, 1, 8, 8, 8)),
        (nn.Conv2d(3, 4, 3), (2, 12, 3, 3)),  # a model may make channels of pixels first
        (nn.Conv2d(4, 4, 3), (2, 8, 4, 4)),
        (nn.Conv2d(3, 4, 3), (2, 16, 3)),
        (nn.Identity(), (2, 16, 16, 3)),
    ],
)
def test_what_only_looks_like_channels_last_is_taken(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert model_inputs(model, torch.zeros(shape))[0].image.shape == shape


def test_images_outside_a_batch_are_refused() -> None:
    model = Takes(lambda images: images)
    assert refusal(model, ([IMAGES[0], IMAGES[1]],)) == (
        "images.0 is (3, 16, 16), an image without a batch, which low-mode needs; give the part that takes batches as "
        "submodule, and images (N, C, *S) for it"
    )
    # A tensor of its own may be a batch of spectrograms, to which the model gives its channel.
    assert model_inputs(model, IMAGES[0])[0].image.shape == (3, 16, 16)


def test_a_registered_dataclass_holds_tensors() -> None:
    @dataclass
    class Batch:
        image: Tensor
        label: Tensor
        tag: str

    torch.export.register_dataclass(Batch)
    model = Takes(lambda batch: batch)
    assert found(model, (Batch(IMAGES, LABELS, "a"),)) == (["batch_image", "batch_label"], ["batch_image"])
    assert flatten(model, (Batch(IMAGES, LABELS, "a"),), Batch(OTHERS, LABELS, "a"))[0] is OTHERS


def test_an_ordered_mapping_is_keywords_and_a_namedtuple_is_one_argument() -> None:
    assert found(Classifier(), OrderedDict(labels=LABELS, pixel_values=IMAGES))[1] == ["pixel_values"]
    names, chosen = found(Takes(lambda views: views), Views(IMAGES, OTHERS), ("views.left", "views.right"))
    assert names == chosen == ["views_left", "views_right"]
