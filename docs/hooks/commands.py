"""The reference of the commands, made of the options themselves: ``<!-- commands -->`` becomes a section a command."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import typer

from lowmode_fx.cli import app
from lowmode_fx.utils.tables import markdown_table

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls it for each page."""
    return markdown.replace(MARK, commands()) if MARK in markdown else markdown


def commands() -> str:
    """Markdown: for each command what it does, an example, and a table for each of its panels of options."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_section(name, command) for name, command in group.commands.items())


def _section(name: str, command: Any) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    said = [paragraph for paragraph in paragraphs if not paragraph.startswith("Example: ")]
    examples = [paragraph.removeprefix("Example: ") for paragraph in paragraphs if paragraph.startswith("Example: ")]
    parts = [f"## lowmode-fx {name}", *said]
    parts += [f"```sh\n{' '.join(example.split())}\n```" for example in examples]
    context = command.make_context(name, [], resilient_parsing=True)
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        panels.setdefault(_panel(parameter), []).append(parameter)
    for panel, found in panels.items():
        parts += [
            f"**{panel}**",
            markdown_table(("option", "values", "what it does"), map(partial(_row, context), found), left=3),
        ]
    return "\n\n".join(parts)


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or "Options"


def _row(context: Any, parameter: Any) -> tuple[str, str, str]:
    spelled = [*parameter.opts, *getattr(parameter, "secondary_opts", ())]
    name = parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(spelled)
    values = "" if getattr(parameter, "is_flag", False) else _shown(parameter, context)
    said = [parameter.help or ""]
    if parameter.required:
        said.append("Required.")
    elif isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool):
        said.append(f"(default {parameter.default})")
    return f"`{name}`", values, " ".join(filter(None, said)).replace("*", "\\*")


def _shown(parameter: Any, context: Any) -> str:
    shown = str(parameter.metavar or parameter.display_type(context)).strip("<>")
    return ", ".join(f"`{choice}`" for choice in shown.split("|"))
