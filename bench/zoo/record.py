"""The sweep's record of one model, as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

#: right: a pair that passed every check. refused: there is none, for a one-line reason. wrong: a pair failed a check.
#: nothing: no convolution that low-mode could pool. error: the model can't be built or run. timeout: it took too long.
Status = Literal["right", "refused", "wrong", "nothing", "error", "timeout"]


@dataclass(frozen=True)
class Record:
    """One model of the sweep. ``reason``: why there is no pair, or why it takes full-size images.

    ``full_macs``, ``low_macs``: per image at ``input_size``; ``seconds``: time of all checks.

    ``resized_maps``: places where a map is resized to its full-mode size (``adapt_head=True``).
    ``downsample_input=False``: the model takes one size only, and the pair only pools kernels.
    ``graphs``: by front end, why its graphs are not proven to train as the model does; empty if they are, and their
    steps are the model's bit for bit. ``proven_seconds``: CPU seconds of ``build_pair`` by that front end, with proofs.
    ``peak_mb``: peak growth of the process's memory while the pair was built.

    ``checked_at``: the size ``(C, *S)`` of the images of the checks. ``gradients_checked``: whether they had gradients.
    """

    name: str
    family: str
    status: Status
    reason: str = ""
    parameters: int = 0
    input_size: tuple[int, ...] = ()
    downsample_input: bool = True
    resized_maps: int = 0
    front_end: str = ""
    poolable_convs: int = 0
    pooled_convs: int = 0
    full_macs: int = 0
    low_macs: int = 0
    trace_seconds: float = 0.0
    build_seconds: float = 0.0
    graphs: Mapping[str, str] = field(default_factory=dict)
    proven_seconds: Mapping[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    checked_at: tuple[int, ...] = ()
    gradients_checked: bool = False
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """low_macs / full_macs; 1 if nothing was counted."""
        return self.low_macs / self.full_macs if self.full_macs else 1.0

    @property
    def kind(self) -> Literal["fits", "rounded", "resized", "whole"]:
        """The images that a right pair trains on.

        Smaller images, at the model's size or one that can be halved more often; smaller images with a fixed map
        resized; or full-size images.
        """
        if not self.downsample_input:
            return "whole"
        if self.resized_maps:
            return "resized"
        return "rounded" if self.reason else "fits"

    @property
    def poolable(self) -> bool:
        """Whether low-mode could pool a kernel of this model, or it is not known."""
        return self.status != "nothing"

    def to_line(self) -> str:
        """One line of JSON, without the fields that are at their defaults."""
        factories = {entry.name: entry.default_factory for entry in fields(self)}
        defaults = {entry.name: entry.default for entry in fields(self)}
        defaults |= {name: make() for name, make in factories.items() if make is not MISSING}
        return json.dumps({name: value for name, value in asdict(self).items() if value != defaults[name]})


def read_records(path: Path) -> list[Record]:
    """Records of a JSONL file; a last line that was cut off is left out. Raises ``ValueError`` for other content."""
    names = {entry.name for entry in fields(Record)}
    records = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            values: dict[str, Any] = json.loads(line)
            records.append(Record(**{name: _plain(value) for name, value in values.items() if name in names}))
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not a record of a sweep ({error})") from error
    return records


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
