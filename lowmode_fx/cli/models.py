"""Models by name: timm's names, ``torchvision:NAME``, ``package.module:callable``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lowmode_fx.cli.model_names import model_parts, unknown_model
from lowmode_fx.utils.imports import import_named
from lowmode_fx.utils.user_code import user_code
from passes.errors import OptionError
from passes.wording import first_line, near_matches_hint

if TYPE_CHECKING:
    from torch import nn

DEFAULT_IMAGE_SIZE = 224


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    image_size: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """An untrained model: a timm name, ``torchvision:NAME``, or ``package.module:callable`` (called without weights).

    num_classes, in_chans: classes of the head, channels of the images; a callable gets those that its signature takes.
    image_size: given to timm models that need it. pretrained: passed on to timm and to a callable, which must take it.

    Raises ``ValueError`` for a name that is not found (with near matches) or a model that can't be built so.
    """
    wanted: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    kind, rest = model_parts(name)
    if kind == "torchvision" and rest:
        return _torchvision_model(rest, wanted, in_chans)
    if rest:
        return _imported_model(kind, rest, {**wanted, "in_chans": in_chans}, pretrained)
    import timm

    if not timm.is_model(name):
        raise ValueError(unknown_model(name, timm.list_models(), "timm"))
    if pretrained:
        wanted["pretrained"] = True
    return _timm_model(name, {**wanted, "in_chans": in_chans}, image_size)


def default_image_size(model: nn.Module, name: str = "") -> tuple[int, int]:
    """(H, W) that the model was made for, if it has them; 224×224 otherwise (299×299 for torchvision's Inception)."""
    config = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    if config and "input_size" in config:
        _, height, width = config["input_size"]
        return height, width
    side = 299 if "inception" in name else DEFAULT_IMAGE_SIZE
    return side, side


def _timm_model(name: str, arguments: dict[str, Any], image_size: int | None) -> nn.Module:
    import timm

    try:
        if image_size is not None:
            try:
                return timm.create_model(name, img_size=image_size, **arguments)
            except TypeError:
                pass  # most convolutional networks take any size and have no such argument
        return timm.create_model(name, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        base, _, tag = name.partition(".")
        known = [each for each in timm.list_pretrained(f"{base}.*") if tag]
        if known and name not in known:
            raise ValueError(f"model {name!r}: timm has no such weights; {near_matches_hint(name, known)}") from error
        raise ValueError(f"model {name!r} can't be built with {arguments}: {first_line(error)}") from error


def _torchvision_model(name: str, arguments: dict[str, Any], in_chans: int) -> nn.Module:
    import torchvision

    if name not in torchvision.models.list_models():
        raise ValueError(unknown_model(name, torchvision.models.list_models(), "torchvision"))
    if in_chans != 3:
        raise ValueError(
            f"torchvision:{name} takes 3 input channels, not {in_chans}; give RGB images or use a timm model"
        )
    builder = torchvision.models.get_model_builder(name)
    weightless = {"weights_backbone": None} if "weights_backbone" in _parameters(builder) else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **weightless, **arguments)
    return model


def _imported_model(module_name: str, attribute: str, offered: dict[str, Any], pretrained: bool) -> nn.Module:
    place = f"model {module_name}:{attribute}"
    build = import_named(f"{module_name}:{attribute}", "model")
    from torch import nn

    if pretrained and (isinstance(build, nn.Module) or not callable(build) or "pretrained" not in _parameters(build)):
        problem = f"finds no argument pretrained of {module_name}:{attribute}"
        raise OptionError("pretrained", True, problem, "give it one, or give --weights FILE")
    if isinstance(build, nn.Module):
        return build
    if not callable(build):
        raise ValueError(f"{place} is of type {type(build).__name__}; give a callable or a module")
    with user_code(f"{place} can't be built"):
        accepted = _parameters(build)
        if pretrained:
            offered = {**offered, "pretrained": True}
        model = build(**{name: value for name, value in offered.items() if name in accepted})
    if not isinstance(model, nn.Module):
        raise ValueError(f"{place} returned a value of type {type(model).__name__}; give one that returns an nn.Module")
    return model


def _parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)
