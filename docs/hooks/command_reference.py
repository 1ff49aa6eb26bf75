"""The reference of the commands, made of the options themselves.

``python -m docs.hooks.command_reference`` writes it into its page, below the mark; a test says if it is up to date.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer

from lowmode_fx.cli import app
from lowmode_fx.utils.tables import markdown_table

PAGE = Path(__file__).parents[1] / "reference/commands.md"
MARK = "<!-- Below: python -m docs.hooks.command_reference -->\n"


def with_reference(page: str) -> str:
    """The page with the reference below its mark, whatever stood there."""
    head, mark, _ = page.partition(MARK)
    assert mark, f"{PAGE} has no line {MARK!r}"
    return f"{head}{mark}\n{commands()}\n"


def commands() -> str:
    """Markdown: for each command what it does, an example, and a table for each of its panels of options."""
    group: Any = typer.main.get_command(app)
    callbacks = {command.callback.__name__: command.callback for command in app.registered_commands}
    return "\n\n".join(_section(name, command, callbacks[name]) for name, command in group.commands.items())


def _section(name: str, command: Any, callback: Any) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    said = [paragraph for paragraph in paragraphs if not paragraph.startswith("Example: ")]
    examples = [paragraph.removeprefix("Example: ") for paragraph in paragraphs if paragraph.startswith("Example: ")]
    parts = [f"## lowmode-fx {name}", *said]
    parts += [f"```sh\n{' '.join(example.split())}\n```" for example in examples]
    annotated = inspect.signature(callback, eval_str=True).parameters
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        panels.setdefault(_panel(parameter), []).append(parameter)
    for panel, found in panels.items():
        rows = (_row(parameter, annotated[parameter.name].annotation) for parameter in found)
        parts += [f"**{panel}**", markdown_table(("option", "values", "what it does"), rows, left=3)]
    return "\n\n".join(parts)


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or "Options"


def _row(parameter: Any, annotation: Any) -> tuple[str, str, str]:
    spelled = [*parameter.opts, *getattr(parameter, "secondary_opts", ())]
    name = parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(spelled)
    values = "" if getattr(parameter, "is_flag", False) else _values(parameter, annotation)
    said = [parameter.help or ""]
    if parameter.required:
        said.append("Required.")
    elif isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool):
        said.append(f"(default {parameter.default})")
    return f"`{name}`", values, " ".join(filter(None, said)).replace("*", "\\*")


def _values(parameter: Any, annotation: Any) -> str:
    """What an option takes: its choices, or a type. Read off the annotation, as versions of typer name types apart."""
    if parameter.metavar:
        return f"`{parameter.metavar}`"
    kind = get_args(annotation)[0]
    (kind,) = [each for each in get_args(kind) if each is not NoneType] if NoneType in get_args(kind) else [kind]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    return f"`{kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind}`"


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text()))
