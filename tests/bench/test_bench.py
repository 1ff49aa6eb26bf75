"""The benchmarks as a user starts them: their options, scaling, the smoke test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from bench_rows import ratio

from bench import captured_overhead, networks, scaling, scaling_ddp, scaling_report, smoke
from lowmode_fx import build_pair

pytestmark = pytest.mark.usefixtures("one_thread")

BENCH = Path(__file__).parents[2] / "bench"
CPU = torch.device("cpu")
SCRIPTS = sorted(
    ".".join(path.relative_to(BENCH).with_suffix("").parts)
    for path in BENCH.rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)

# Every script starts.


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_lists_its_options(script: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{script}").main()
    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_the_scripts_are_found() -> None:
    names = {"step_time", "table1", "scaling", "smoke", "overhead", "ablation", "gpu_training", "zoo.__main__"}
    assert names <= set(SCRIPTS)


def test_every_other_network_is_one_of_timms() -> None:
    assert set(networks.TIMM) <= set(networks.CASES)
    assert all(timm.is_model(name) for name in networks.TIMM)


# Captured steps.


def test_the_python_around_a_replay_is_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.CASES, "tiny", networks.TINY["tiny"])
    monkeypatch.setattr(captured_overhead, "BLOCK", 5)
    rows = captured_overhead.measure(["tiny"], blocks=2)
    found = {part: values["q1"] for part, values in rows["tiny"].items()}
    assert 0 < min(found.values()) < max(found.values()) == found[captured_overhead.WHOLE] < 10_000
    assert all(f"| {part} |" in captured_overhead.table(rows) for part in found)


# Scaling.


def test_scaling_writes_what_it_measures_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "build / net": {"parameters": 2_000_000, "nodes": 300, **{
            name: ratio(0.25) for name in ("front end seconds", "build seconds", "build MB")
        }},
        "step / 32 / 16": {"side": 32, "batch": 16, "mac_ratio": 0.1, "low / full": ratio(0.3)},
        "ddp / 2": {"ranks": 2, "threads a rank": 1, "net / graph": ratio(1.02), "lost to the runner": 0.02},
    }  # fmt: skip
    measured: list[str] = []

    def parts(*_: Any) -> Any:
        for key, row in rows.items():
            yield key, lambda key=key, row=row: measured.append(key) or row

    monkeypatch.setattr(scaling, "parts", parts)
    out = ["--out", str(tmp_path / "scaling.json")]
    scaling.main([*out, "--parts", "build"])
    assert measured == ["build / net"]
    scaling.main([*out, "--resume"])
    assert measured == list(rows)
    text = (tmp_path / "scaling.md").read_text()
    assert "| net | 2.0 | 300 | 0.25 | 0.25 | 0.2 |" in text
    assert "| 32 | 16 | 0.300 | 0.290 to 0.310 | 0.100 |" in text
    assert "| 2 | 1 | 2.0 | 1.0 to 3.0 |" in text
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_each_part_of_scaling_has_its_keys() -> None:
    keys = [key for key, _ in scaling.parts(True, CPU, 1)]
    assert len(keys) == len(set(keys))
    assert [key for key in keys if key.startswith("ddp")] == ["ddp / 1", "ddp / 2", "ddp / 4"]
    assert set(scaling_report.of_part(dict.fromkeys(keys), "step")) >= {"32 / 16", "128 / 16", "64 / 4"}
    assert all(timm.is_model(variant) for variant, _ in scaling.FAMILY.values())


def test_the_smallest_network_has_about_a_million_parameters() -> None:
    row = scaling.build_costs(next(iter(scaling.FAMILY)), repeats=1)
    assert 0.9e6 < row["parameters"] < 1.5e6
    assert row["low nodes"] > row["nodes"] > 100
    assert 0 < row["front end seconds"]["median"] < row["build seconds"]["median"]


@pytest.mark.slow
def test_the_runner_under_ddp() -> None:
    row = scaling_ddp.overhead_of_runner(2, rounds=3, side=16, batch=4)
    assert row["ranks"] == 2
    assert row["net / graph"]["n"] == 3
    assert row["lost to the runner"] == row["net / graph"]["median"] - 1


# The smoke test.


def test_the_smoke_test_passes_here(capsys: Any) -> None:
    smoke.main(["--small"])
    assert capsys.readouterr().out.count("ok ") == 3


def test_the_smoke_test_sees_a_graph_that_is_not_the_model(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(smoke, "build_pair", lambda *_: SimpleNamespace(full=build_pair(*_).low, low=None))
    with pytest.raises(SystemExit):
        smoke.main(["--small"])
    assert "FAILED  full graph: AssertionError" in capsys.readouterr().out
