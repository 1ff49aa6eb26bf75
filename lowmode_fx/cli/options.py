"""Command-line options that several commands share: how text becomes sizes, names and a ``LowModeConfig``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, replace
from functools import partial, wraps
from typing import Annotated, Any, Literal, get_args

import typer

from lowmode_fx.cli.outputs import as_path
from lowmode_fx.cli.spelling import option_name
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.utils.validation import as_choice
from passes.choices import NamedConvs, NamedMaxPools
from passes.errors import NO_VALUE, OptionError

Low = partial(typer.Option, rich_help_panel="Low-mode")
Data = partial(typer.Option, rich_help_panel="Data")

#: Of an image's side: larger ones are slips of the keyboard, and would ask for all memory there is.
MOST_PIXELS = 16384

MODEL = "Model: a timm name, torchvision:NAME or package.module:callable."
ModelName = Annotated[str, typer.Argument(help=MODEL)]
Preset = Annotated[Literal["paper"] | None, typer.Option(help="Setting of the paper's §4; other options override it.")]

# Commands that look at a model.
InputSize = Annotated[
    str | None,
    typer.Option("--input-size", "--image-size", help="Image size in pixels: 224, or 192x256 (height × width)."),
]
Channels = Annotated[int, typer.Option(min=1, max=4096, help="Number of image channels.")]
Classes = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Number of classes of the head.")]
Submodule = Annotated[
    str | None, typer.Option(help="Transform only this submodule, such as backbone; it gets the images.")
]

# Commands that train.
DataName = Annotated[
    str, Data(help="Data: digits; cifar10:, folder:, parquet: or webdataset:PATH; torchvision:NAME=PATH.")
]
ImageSize = Annotated[int | None, Data(min=1, max=MOST_PIXELS, help="Side of the images in pixels.")]
CHANNELS = "Image channels: 3 (RGB), 1 (grey) or, from a folder, 4 (bands as stored)."
ImageChannels = Annotated[int, Data(help=CHANNELS)]
ChannelsLast = Annotated[
    bool | None,
    typer.Option(
        "--channels-last",
        help="Weights and images in torch.channels_last, faster on most devices. (default off)",
        rich_help_panel="Run",
    ),
]
CriterionName = Annotated[
    str | None,
    typer.Option(
        help="Loss: cross_entropy, bce or package.module:callable, of outputs and labels.",
        rich_help_panel="Optimisation",
    ),
]


def path_option(**settings: Any) -> Any:
    """An option that takes a path."""
    return typer.Option(parser=as_path, metavar="PATH", **settings)


def _annotation(entry: Field[Any]) -> Any:
    """An option of ``LowModeConfig`` as typer takes it; what isn't given is None."""
    help, flag = entry.metadata["help"], entry.metadata["flag"]
    if flag:
        return Annotated[bool | None, Low(option_name(flag), help=help)]
    choices: Any = entry.metadata["choices"]
    if choices is not None:
        return Annotated.__class_getitem__((choices | None, Low(help=help)))  # type: ignore[attr-defined]
    if entry.type == "int":
        return Annotated[int | None, Low(min=1, help=help)]
    return Annotated[str | None, Low(help=help)]


#: ``LowModeConfig`` on the command line, by parameter.
LOW_MODE: dict[str, Any] = {entry.metadata["flag"] or entry.name: _annotation(entry) for entry in fields(LowModeConfig)}

#: Options that take a named set or globs, with the sets.
_NAMED_SETS: dict[str, tuple[str, ...]] = {
    "pool_convs": get_args(NamedConvs),
    "keep_convs": (),
    "drop_maxpools": get_args(NamedMaxPools),
}


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


def low_mode_config(preset: str | LowModeConfig | None, **given: Any) -> LowModeConfig:
    """A preset (``"paper"``, or none: the defaults) or a config, with the options that aren't None.

    Globs and strides are spelled as on the command line. Raises ``ValueError`` for what is not allowed.
    """
    if not preset:
        preset = LowModeConfig()
    elif isinstance(preset, str):
        as_choice("preset", preset, ("paper",))
        preset = LowModeConfig.paper()
    given = {name: value for name, value in given.items() if value is not None}
    for name, named in _NAMED_SETS.items():
        if isinstance(given.get(name), str):
            given[name] = names_or_set(given[name], named, name)
    if isinstance(given.get("strides"), str):
        given["strides"] = _strides(given["strides"])
    if given.pop("whole_images", None):
        given["downsample_input"] = False
    return replace(preset, **given)


def image_sides(text: str) -> tuple[int, int]:
    """``"224"`` or ``"192x256"`` (height × width), in pixels. Raises ``ValueError`` for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and int(part[:9]) > 0 for part in parts):
        raise OptionError("input_size", text, "is no size", "give pixels, as 224, or height and width, as 192x256")
    if any(len(part) > 9 or int(part) > MOST_PIXELS for part in parts):
        raise OptionError("input_size", text, "is too large", f"give at most {MOST_PIXELS} pixels a side")
    return int(parts[0]), int(parts[-1])


def names_or_set(text: str | None, named: Sequence[str], option: str) -> Any:
    """A named set as it is, or a comma list of globs as a tuple; ``None`` stays ``None``.

    Raises ``OptionError`` for a list with an empty place.
    """
    return text if text is None or text in named else comma_list(text, option)


def comma_list(text: str, option: str) -> tuple[str, ...]:
    """``"a,b"`` as a tuple. Raises ``OptionError`` for a list with an empty place."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise OptionError(option, text, "has an empty place between its commas", "give a,b")
    return parts


def _strides(text: str) -> dict[str, int | tuple[int, ...]]:
    """``"conv1=1,layer2.0.*=1x2"``: strides by glob, one of all sides or one a side."""
    found: dict[str, int | tuple[int, ...]] = {}
    for part in comma_list(text, "strides"):
        glob, _, stride = part.rpartition("=")
        sides = stride.split("x")
        if not glob or not all(side.isascii() and side.isdecimal() and int(side[:9]) > 0 for side in sides):
            raise OptionError(
                "strides",
                NO_VALUE,
                f"has {part!r}, which is no glob with its stride",
                "give globs with strides, as conv1=1 or conv1=1x2",
            )
        found[glob] = int(stride) if len(sides) == 1 else tuple(map(int, sides))
    return found
