"""``--pretrained``: a model with the weights that timm or torchvision publish for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR
from typing import TYPE_CHECKING, Any

from lowmode_fx.cli.models import create_model
from passes.errors import OptionError
from passes.wording import one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Mean and deviation of each channel, of images in [0, 1].
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
_INSTEAD = "give --weights FILE"


def pretrained_model(
    name: str, *, num_classes: int, in_chans: int, image_size: int | None
) -> tuple[nn.Module, tuple[str, ...]]:
    """A model with published weights, and lines about them. A head of another number of classes stays untrained.

    name: as for ``create_model``. A callable is called with ``pretrained=True``. Raises ``OptionError`` where there
    are no weights, or they can't be loaded.
    """
    given: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    kind, _, rest = name.partition(":")
    if kind == "torchvision" and rest:
        return _of_torchvision(rest, create_model(name, **given), num_classes)
    if rest:
        return create_model(name, **given, pretrained=True), (f"pretrained weights are what {name} has loaded",)
    _require_weights(name)
    try:
        with _loading(f"timm's weights of {name!r}"):
            model = create_model(name, **given, pretrained=True)
    except OptionError:
        create_model(name, **given)  # one that can't be built untrained either is refused for that
        raise
    found: Any = model.pretrained_cfg
    lines = [f"pretrained weights: {found['architecture']}.{found['tag']} of timm"]
    lines += _about_head(found["num_classes"], num_classes)
    if found["input_size"][0] != in_chans:
        lines.append(f"the first convolution's are made for {in_chans} channels of those for {found['input_size'][0]}")
    return model, ("; ".join(lines),)


def pretrained_statistics(name: str, model: nn.Module) -> Statistics | None:
    """How images were normalised for a model's published weights; ``None`` where nothing says so."""
    kind, _, rest = name.partition(":")
    if kind == "torchvision" and rest:
        # With its weights, torchvision's Inception turns ImageNet's statistics into these.
        if hasattr(model, "transform_input"):
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        transforms = _published(rest).transforms()
        return (tuple(transforms.mean), tuple(transforms.std)) if hasattr(transforms, "mean") else None
    config: Any = None if rest else getattr(model, "pretrained_cfg", None)
    return (tuple(config["mean"]), tuple(config["std"])) if config else None


def _require_weights(name: str) -> None:
    """Raises ``OptionError`` for a model that timm has no weights of."""
    import timm

    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # a name that isn't known: ``create_model`` says so
        return
    if config is not None and not config.has_weights:
        raise OptionError("pretrained", True, f"finds no weights of {name!r} at timm", f"leave it out, or {_INSTEAD}")


def _of_torchvision(name: str, model: nn.Module, classes: int) -> tuple[nn.Module, tuple[str, ...]]:
    from lowmode_fx.train.weights import load_all_but_head

    published = _published(name)
    with _loading(f"torchvision's weights of {name!r}"):
        weights: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)
    load_all_but_head(model, weights, classes, str(published))
    lines = [f"pretrained weights: {published} of torchvision"]
    return model, ("; ".join([*lines, *_about_head(len(published.meta["categories"]), classes)]),)


def _published(name: str) -> Any:
    """torchvision's best weights of a model, as its registry names them."""
    import torchvision

    if not list(torchvision.models.get_model_weights(name)):
        problem = f"finds no weights of {name!r} at torchvision"
        raise OptionError("pretrained", True, problem, f"leave it out, or {_INSTEAD}")
    return torchvision.models.get_model_weights(name).DEFAULT


def _about_head(theirs: int, ours: int) -> Sequence[str]:
    return () if theirs == ours else (f"the head of {theirs} classes is left out, the one of {ours} starts untrained",)


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn what goes wrong inside into one line."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # it tells of each of its attempts
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        hint = f"look at the network, or load them elsewhere and {_INSTEAD}"
        raise OptionError("pretrained", True, f"can't load {what} ({one_line(cause).rstrip('.')})", hint) from error
    finally:
        logging.set_verbosity(before)
