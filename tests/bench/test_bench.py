"""The benchmarks as a user starts them: their options, the list for a GPU, scaling, the smoke test."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from bench_rows import ratio

from bench import networks, scaling, scaling_ddp, scaling_report, smoke
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
def test_a_script_tells_its_options(script: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{script}").main()
    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_the_scripts_are_found() -> None:
    assert {"step_time", "table1", "scaling", "smoke", "overhead", "ablation", "zoo.__main__"} <= set(SCRIPTS)


def test_every_other_network_is_one_of_timms() -> None:
    assert set(networks.TIMM) <= set(networks.CASES)
    assert all(timm.is_model(name) for name in networks.TIMM)


# The GPU's list of commands.


def run_gpu(tmp_path: Path, *steps: str) -> subprocess.CompletedProcess[str]:
    """``gpu.sh`` with an interpreter that only prints its arguments, and fails as the smoke test."""
    for part in ("train", "test"):
        (tmp_path / "data" / part).mkdir(parents=True)
    fake = tmp_path / "python"
    fake.write_text('#!/bin/bash\necho "ran $*"\ncase "$*" in *smoke*) exit 3 ;; esac\n')
    fake.chmod(0o755)
    command = ["bash", str(BENCH / "gpu.sh"), "data", "out", *steps]
    environment = {"PYTHON": str(fake), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)


def test_the_gpus_script_is_a_shells() -> None:
    assert subprocess.run(["bash", "-n", str(BENCH / "gpu.sh")], check=False).returncode == 0


def test_the_gpus_script_runs_all_in_order_though_a_step_fails(tmp_path: Path) -> None:
    run = run_gpu(tmp_path)
    assert run.returncode == 0, run.stderr
    ran = [line.split()[2].removeprefix("bench.") for line in run.stdout.splitlines() if line.startswith("ran ")]
    first, then = ["smoke", "step_time", "step_time", "ablation", "table1"], ["step_time", "step_time"]
    assert ran == [*first, *then, "overhead", "scaling", "table1", "kernel_scores", "large_kernels"]
    assert "smoke: FAILED (status 3)" in run.stdout
    assert f"--data folder:{tmp_path}/data" in run.stdout
    assert (tmp_path / "out/logs/table1_resnet50.log").read_text().startswith("ran -m bench.table1")


def test_the_gpus_script_gives_only_options_that_the_scripts_have(tmp_path: Path) -> None:
    for line in run_gpu(tmp_path).stdout.splitlines():
        if line.startswith("ran "):
            _, _, module, *arguments = line.split()
            source = (BENCH / f"{module.removeprefix('bench.')}.py").read_text()
            for option in (argument for argument in arguments if argument.startswith("--")):
                assert f'"{option}"' in source, f"{module} has no {option}"


def test_the_gpus_script_runs_chosen_steps_and_refuses_unknown_ones(tmp_path: Path) -> None:
    assert run_gpu(tmp_path / "a", "overhead", "smoke").stdout.count("ran ") == 2
    refused = run_gpu(tmp_path / "b", "nosuch")
    assert refused.returncode == 2
    assert "no step 'nosuch'" in refused.stderr


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
    assert capsys.readouterr().out.count("ok ") == 2


def test_the_smoke_test_sees_a_graph_that_is_not_the_model(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(smoke, "build_pair", lambda *_: SimpleNamespace(full=build_pair(*_).low, low=None))
    with pytest.raises(SystemExit):
        smoke.main(["--small"])
    assert "FAILED  full graph: AssertionError" in capsys.readouterr().out
