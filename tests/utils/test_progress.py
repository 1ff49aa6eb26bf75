"""Bars on terminals of any width, lines where the output is piped."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.cells import cell_len
from rich.console import Console

from lowmode_fx.utils.progress import Tell, progress, track

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
UP = "\x1b[1A"


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ={})


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(console: Console) -> list[str]:
    """Every line that was ever on the terminal, without colours."""
    lines = ESCAPE.sub("", written(console)).replace("\r", "\n").split("\n")
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_bar_is_one_line_that_fits_its_terminal(width: int) -> None:
    console = terminal(width)
    with progress(console) as tell:
        tell("layers[0] " * 30, 0.999)
    lines = shown(console)
    assert {cell_len(line) <= width for line in lines} == {True}
    assert any("100%" in line and "layers" in line and "…" in line for line in lines)
    # Frames of one line are painted over without going up; once, at the end, the last of them is wiped away.
    assert written(console).count(UP) == 1


def test_a_bar_shows_stage_and_share() -> None:
    console = terminal(60)
    with progress(console) as tell:
        tell("low-mode: epoch 12/200", 0.42)
    assert re.search(r"━ +42% \S+ low-mode: epoch 12/200$", shown(console)[-1])


def test_a_log_gets_one_line_for_each_stage() -> None:
    console = Console(file=io.StringIO(), width=20)
    with progress(console) as tell:
        for stage, share in (("reading [batches]", 0), ("training for a while, much longer", 0.1), ("training", 0.5)):
            for part in range(3):
                tell(stage, share + 0.01 * part)
    assert written(console).split("\n") == [
        "reading [batches] …",
        "training for a while, much longer …",
        "training …",
        "",
    ]


def test_a_log_reports_the_progress_of_a_long_stage_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    console, now = Console(file=io.StringIO(), width=20), 0.0
    monkeypatch.setattr("lowmode_fx.utils.progress.time.monotonic", lambda: now)
    with progress(console) as tell:
        for second in range(13):
            now = float(second)
            tell("decoding train images", second / 13)
    assert written(console).split("\n") == [
        "decoding train images …",
        "decoding train images: 38% …",
        "decoding train images: 77% …",
        "",
    ]


def test_items_of_several_sizes_count_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    @contextmanager
    def listening() -> Iterator[Tell]:
        yield lambda stage, share: shares.append(share)

    monkeypatch.setattr("lowmode_fx.utils.progress.progress", listening)
    assert list(track(["aa", "a", "b"], total=4, what="reading", size=len)) == ["aa", "a", "b"]
    assert shares == [0, 0.5, 0.75, 1]


def test_a_log_with_lines_of_its_own_gets_none() -> None:
    console = Console(file=io.StringIO())
    with progress(console, lines=False) as tell:
        tell("training", 0.5)
    assert written(console) == ""


def test_items_pass_through_and_are_reported_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), total=3, what="decoding")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "decoding …\n")
