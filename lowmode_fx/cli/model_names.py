"""Checks a model's name before the package that makes it is imported: timm takes seconds, a typo shows at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowmode_fx.utils.registries import names_in
from passes.wording import near_matches

#: What a package that keeps a registry of models writes above each of them, its name being the function's.
_REGISTERED = r"^@register_model\b.*\n(?:@.*\n)*def (\w+)\("
#: Fewer, and the package keeps its models in another way than is read here: it is asked itself.
_FEWEST = 50


def check_model_name(name: str) -> None:
    """Raises ``ValueError``, with near matches, for a name that can't be one of timm's or torchvision's models.

    Read off their files, imported by nothing: a name that none of them defines or quotes is in no registry. One that
    passes may still be none; ``create_model`` says so.
    """
    kind, rest = model_parts(name)
    if kind == "torchvision" and rest:
        package, model = "torchvision", rest
    elif rest:
        return  # a callable: its own module is asked
    else:
        package, model = "timm", name.partition(".")[0]  # without the tag of its weights
    known, spelled = names_in(package, "models", _REGISTERED)
    if len(known) >= _FEWEST and model not in spelled:
        raise ValueError(unknown_model(rest or name, known, package))


def model_parts(name: str) -> tuple[str, str]:
    """What is before a colon, and after it; ``""`` without one. Raises ``ValueError`` for a colon beside nothing."""
    kind, colon, rest = name.partition(":")
    if colon and not (kind and rest):
        forms = "torchvision:NAME" if kind == "torchvision" else "package.module:callable"
        raise ValueError(f"model {name!r} names nothing {'after' if kind else 'before'} its colon; give {forms}")
    return kind, rest


def unknown_model(name: str, known: Sequence[str], package: str) -> str:
    """The message for a ``name`` that is none of the ``known`` ones of a package."""
    if package == "timm" and Path(name).exists():
        what = "folder" if Path(name).is_dir() else "file"
        forms = "a timm name, torchvision:NAME or package.module:callable"
        return f"model {name!r} is a {what} here, and {package} has no model of that name; give {forms}"
    near = near_matches(name.partition(".")[0], known)  # the tag names its weights
    hint = f"near matches: {', '.join(near)}" if near else f"see {_LISTS[package]}, or give package.module:callable"
    return f"model {name!r}: {package} has no such model; {hint}"


_LISTS = {"timm": "timm.list_models()", "torchvision": "torchvision.models.list_models()"}
