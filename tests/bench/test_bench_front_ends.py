"""Low steps of the model itself beside proven graphs, as measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from bench import front_ends
from bench.networks import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_front_end_has_a_build_and_each_graph_a_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    given = [*["front_ends", "--tiny", "--kinds", "uncompiled", "--rounds", "2", "--out"], str(out)]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(torch, "compile", lambda function: function)  # no compilation, and none to warm up
    front_ends.main()
    (row,) = json.loads(out.read_text())["rows"].values()
    assert set(row["build seconds"]) == set(row["first steps seconds"]) == {"auto", "fx", "export"}
    assert all(seconds > 0 for seconds in row["build seconds"].values())
    assert set(row["graph / model"]) == {"fx", "export"}
    assert all(each["n"] == 2 and 0.1 < each["median"] < 10 for each in row["graph / model"].values())
    assert row["batch"] == TINY["tiny"].batch


def test_the_table_has_a_row_for_each_network_and_kind() -> None:
    ratio = {"median": 1.0126, "q1": 0.98, "q3": 1.04, "n": 21}
    builds = {"auto": 0.051, "fx": 1.14, "export": 1.98}
    row = {"graph / model": {"fx": ratio, "export": ratio}, "build seconds": builds}
    lines = front_ends.table({"net, compiled": row}).splitlines()
    shown = "1.013 (0.980 to 1.040, n = 21)"
    assert lines[2:] == [f"| net | compiled | {shown} | {shown} | 0.05, 1.14, 1.98 s |"]
