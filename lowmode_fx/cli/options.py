"""Command-line options that several commands share: how text becomes sizes, names and a ``LowModeConfig``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, replace
from functools import partial, wraps
from typing import Annotated, Any

import typer

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.utils.validation import as_choice

Low = partial(typer.Option, rich_help_panel="Low-mode")
Data = partial(typer.Option, rich_help_panel="Data")

ModelName = Annotated[str, typer.Argument(help="A timm name, torchvision:NAME or package.module:callable.")]
Preset = Annotated[str, typer.Option(help="paper: the setting of §4. Other options win over it.")]

# Commands that look at a model.
InputSize = Annotated[str | None, typer.Option(help="Pixels: 224, or 192x256 (height × width).")]
Channels = Annotated[int, typer.Option(help="Channels of the images.")]
Classes = Annotated[int | None, typer.Option(help="Of the head.")]
Submodule = Annotated[str | None, typer.Option(help="Only this part, as backbone; fed the images.")]

# Commands that train.
DataName = Annotated[str, Data(help="digits, cifar10:PATH, folder:PATH or torchvision:NAME=PATH.")]
ImageSize = Annotated[int | None, Data(help="Side in pixels.")]
ImageChannels = Annotated[int, Data(help="3 (RGB), 1 (grey) or, of a folder, 4 (bands as stored).")]
CriterionName = Annotated[
    str | None,
    typer.Option(
        help="cross_entropy, bce or package.module:callable, of outputs and labels.", rich_help_panel="Optimisation"
    ),
]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _annotation(entry: Field[Any]) -> Any:
    """An option of ``LowModeConfig`` as typer takes it; what isn't given is None."""
    help, flag = entry.metadata["help"], entry.metadata["flag"]
    if flag:
        return Annotated[bool | None, Low(_option(flag), help=help)]
    if entry.type == "int":
        return Annotated[int | None, Low(help=help)]
    return Annotated[str | None, Low(help=help)]


_FLAGS = [entry for entry in fields(LowModeConfig) if entry.metadata["flag"]]
#: ``LowModeConfig`` on the command line, by parameter.
LOW_MODE: dict[str, Any] = {entry.metadata["flag"] or entry.name: _annotation(entry) for entry in fields(LowModeConfig)}

#: Switches, as messages name them to a user of Python.
_SWITCHES = {
    **{f"{entry.name}={not entry.default}": _option(entry.metadata["flag"]) for entry in _FLAGS},
    "submodule=": "--submodule",
}
_VALUE = re.compile(rf"\b({'|'.join(LOW_MODE)})=(\([^()]*\)|'\d[^']*'|(?=\S))")
_SUBJECT = re.compile(rf"^({'|'.join(LOW_MODE)})(?=: | is )")
#: What a message of ``lowmode_fx.utils.validation`` begins with: an argument, or a value in it.
_ARGUMENT = re.compile(r"^([a-z]\w*)(\[[^]]*\])*=(?=\S)")
#: Arguments whose options have another name.
_RENAMED = {"every": "measure_every"}

#: Options that take a named set or globs, with the sets.
_NAMED_SETS = {"pool_convs": ("dense", "all", "large"), "keep_convs": (), "drop_maxpools": ("none", "stem", "all")}


def low_mode_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command that takes ``low``, a mapping: it holds ``LOW_MODE``'s options, None where one isn't given.

    names: which of them the command has; none for all. They stand in ``--help`` where ``low`` stands; what comes after
    them can be given by name alone.
    """
    offered = names or tuple(LOW_MODE)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == "low":
                parameters += [inspect.Parameter(n, kind, default=None, annotation=LOW_MODE[n]) for n in offered]
            elif parameters and parameters[-1].kind is kind:
                parameters.append(parameter.replace(kind=kind))
            else:
                parameters.append(parameter)
        signature = inspect.Signature(parameters)

        @wraps(command)
        def with_options(*arguments: Any, **options: Any) -> None:
            values = signature.bind(*arguments, **options).arguments
            command(low={name: values.pop(name, None) for name in offered}, **values)

        with_options.__signature__ = signature  # type: ignore[attr-defined]
        return with_options

    return decorate


def low_mode_config(preset: str | LowModeConfig, **given: Any) -> LowModeConfig:
    """A preset (``"paper"``, or ``""`` for the defaults) or a config, with the options that aren't None.

    Globs and strides are spelled as on the command line. Raises ``ValueError`` for what is not allowed.
    """
    if preset == "":
        preset = LowModeConfig()
    elif isinstance(preset, str):
        as_choice("preset", preset, ("paper",))
        preset = LowModeConfig.paper()
    given = {name: value for name, value in given.items() if value is not None}
    for name, named in _NAMED_SETS.items():
        if isinstance(given.get(name), str):
            given[name] = names_or_set(given[name], named)
    if isinstance(given.get("strides"), str):
        given["strides"] = _strides(given["strides"])
    if given.pop("whole_images", None):
        given["downsample_input"] = False
    return replace(preset, **given)


def spelled_as_options(message: str) -> str:
    """A message that names arguments of Python, with the options that stand for them."""
    for argument, option in _SWITCHES.items():
        message = message.replace(f"set {argument}", f"give {option}").replace(argument, option)
    message = _VALUE.sub(lambda found: f"{_option(found[1])} {_option_value(found[2])}", message)
    message = _ARGUMENT.sub(lambda found: f"{_option(_RENAMED.get(found[1], found[1]))} ", message)
    return _SUBJECT.sub(lambda found: _option(found[1]), message)


def _option_value(value: str) -> str:
    """A ratio of Python as on the command line: ``(1, '4/3')`` is ``1x4/3``."""
    return value.strip("()").replace("'", "").replace(", ", "x")


def image_sides(text: str) -> tuple[int, int]:
    """``"224"`` or ``"192x256"`` (height × width), in pixels. Raises ``ValueError`` for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"input size {text!r} is no size; give pixels, as 224, or height and width, as 192x256")
    return int(parts[0]), int(parts[-1])


def names_or_set(text: str | None, named: Sequence[str]) -> Any:
    """A named set as it is, or a comma list of globs as a tuple; ``None`` stays ``None``."""
    if text is None or text in named:
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _strides(text: str) -> dict[str, int | tuple[int, ...]]:
    """``"conv1=1,layer2.0.*=1x2"``: strides by glob, one of all sides or one a side."""
    found: dict[str, int | tuple[int, ...]] = {}
    for part in names_or_set(text, ()):
        glob, _, stride = part.rpartition("=")
        sides = stride.split("x")
        if not glob or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise ValueError(f"--strides has {part!r}; give globs with strides, as conv1=1 or conv1=1x2")
        found[glob] = int(stride) if len(sides) == 1 else tuple(map(int, sides))
    return found
