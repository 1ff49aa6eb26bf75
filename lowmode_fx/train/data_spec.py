"""What names a data set on the command line, checked before anything is loaded: ``digits``, ``folder:PATH``, …"""

from __future__ import annotations

from pathlib import Path

from passes.errors import OptionError

#: The kinds of data sets, each as it is spelled.
FORMS = {
    "digits": "digits",
    "cifar10": "cifar10:PATH",
    "folder": "folder:PATH",
    "torchvision": "torchvision:NAME=PATH",
}


def check_spec(spec: str) -> None:
    """Raises ``OptionError`` for a kind of set that there isn't, and for a path that is no folder."""
    kind, _, path = spec.partition(":")
    form = FORMS.get(kind)
    if form is None or (form == kind and path):
        *others, last = FORMS.values()
        raise OptionError("data", spec, "is unknown", f"give {', '.join(others)} or {last}")
    if form == kind:
        return
    if kind == "torchvision":
        _, _, path = path.partition("=")
    if not path.strip():
        raise OptionError("data", spec, "names no folder", f"give {form}")
    root = Path(path).expanduser()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise ValueError(f"data path {str(root)!r} {problem}; give {form} of an existing folder")


def short_name(spec: str) -> str:
    """A name for folders of results: the data's own, ``cats`` for ``folder:path/to/cats``."""
    kind, _, path = spec.partition(":")
    if kind == "torchvision":
        return path.partition("=")[0] or kind
    return Path(path).expanduser().resolve().name or kind if kind == "folder" else kind
