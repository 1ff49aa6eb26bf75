"""What names a data set, read before anything is loaded: ``digits``, ``folder:PATH``, ``torchvision:NAME=PATH``, …"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from passes.errors import OptionError
from passes.wording import any_of

#: The kinds of data sets, each as it is spelled.
FORMS = {
    "digits": "digits",
    "cifar10": "cifar10:PATH",
    "folder": "folder:PATH",
    "torchvision": "torchvision:NAME=PATH",
    "parquet": "parquet:PATH",
    "webdataset": "webdataset:PATH",
}
#: Those that the package datasets reads.
SHARDS = ("parquet", "webdataset")
#: Those that are pixels already, without files to decode.
HELD = ("digits", "cifar10")


@dataclass(frozen=True)
class DataSpec:
    """``kind``: of ``FORMS``. ``name``: torchvision's, else empty. ``root``: where the set lies, if anywhere."""

    kind: str
    name: str
    root: Path | None


def read_spec(spec: str) -> DataSpec:
    """Raises ``OptionError`` for a kind of set that there isn't, and ``ValueError`` for a path that is no folder."""
    read = _parts(spec)
    if read.kind in SHARDS and find_spec("datasets") is None:
        raise OptionError("data", spec, "needs datasets, which is not installed", "pip install 'lowmode-fx[datasets]'")
    if read.root is not None and not read.root.is_dir():
        problem = "is not a folder" if read.root.exists() else "does not exist"
        raise ValueError(f"data path {str(read.root)!r} {problem}; give {FORMS[read.kind]} of an existing folder")
    return read


def short_name(spec: str) -> str:
    """A name for folders of results, the data's own: ``cats`` for ``folder:path/to/cats``."""
    read = _parts(spec)
    if read.kind in ("folder", *SHARDS) and read.root is not None:
        return read.root.resolve().name or read.kind
    return read.name or read.kind


def _parts(spec: str) -> DataSpec:
    kind, _, rest = spec.partition(":")
    form = FORMS.get(kind)
    if form is None or (form == kind and rest):
        forms = any_of(list(FORMS.values()))
        if form is None and Path(spec).expanduser().exists():
            hint = f"give folder:{spec} for images in class folders, or another of {forms}"
            raise OptionError("data", spec, "is a path without the kind of its data", hint)
        raise OptionError("data", spec, "is unknown", f"give {forms}")
    if form == kind:
        return DataSpec(kind, "", None)
    name, _, path = rest.partition("=") if kind == "torchvision" else ("", "", rest)
    if not path.strip() or (kind == "torchvision" and not name.strip()):
        raise OptionError(
            "data", spec, f"names no {'folder' if name or kind != 'torchvision' else 'set'}", f"give {form}"
        )
    return DataSpec(kind, name, Path(path).expanduser())
