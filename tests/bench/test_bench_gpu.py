"""What runs on a GPU in ten minutes: its list of commands, what is compiled ahead, and whole steps that are timed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_archives import write_archives
from bench_rows import ratio

from bench import step_time, warm_compile
from bench.gpu_studies import STUDIES
from bench.networks import GPU_CASES, TINY
from bench.step_functions import COMPILED, CONFIGS, GRAPHS, WHOLE, steps
from bench.whole_step_report import whole_step_table
from tests.runtime.recorder import Recorder

pytestmark = pytest.mark.usefixtures("one_thread")

BENCH = Path(__file__).parents[2] / "bench"
SCRIPT = BENCH / "gpu_ten_minutes.sh"
CPU = torch.device("cpu")

# The list of commands.


def run_script(
    tmp_path: Path, *arguments: str, fails: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The script with an interpreter that only prints its arguments, and ends as ``fails`` says, a shell's ``case``."""
    data = tmp_path / "data"
    data.mkdir(parents=True, exist_ok=True)
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/bash\necho "ran $*"\ncase "$*" in {fails} esac\n')
    fake.chmod(0o755)
    environment = {"PYTHON": str(fake), "PATH": "/usr/bin:/bin", **environment}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)


def commands(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Those in the foreground: the end of what compiles beside them is shown too."""
    lines = [line.removeprefix("ran ") for line in run.stdout.splitlines() if line.startswith("ran -m")]
    return [line for line in lines if "warm_compile" not in line]


def modules(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.split()[1].removeprefix("bench.") for line in commands(run)]


def test_the_script_is_a_shells() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0


def test_all_runs_in_order_though_a_part_fails(tmp_path: Path) -> None:
    run = run_script(tmp_path, "out", "data", fails="*smoke*) exit 1 ;;")
    assert run.returncode == 0, run.stderr
    assert modules(run) == ["smoke", "pytest", "step_time", "step_time", "gpu_training", "gpu_training"]
    assert "smoke: FAILED (status 1)" in run.stdout
    assert all(f"--data {tmp_path}/data" in command for command in commands(run)[-2:])
    parts = [json.loads(line) for line in (tmp_path / "out/parts.jsonl").read_text().splitlines()]
    statuses = {row["part"]: row["status"] for row in parts}
    assert statuses == {
        "smoke": 1, "tests": 0, "compile": 0, "step_time": 0, "step_time_graphs": 0, "training": 0,
        "large_kernels": 0,
    }  # fmt: skip
    assert "ran -m bench.warm_compile" in (tmp_path / "out/logs/compile.log").read_text()


def test_only_options_that_the_benchmarks_have_are_given(tmp_path: Path) -> None:
    run = run_script(tmp_path, "out", "data")
    for line in [*commands(run), (tmp_path / "out/logs/compile.log").read_text().removeprefix("ran ")]:
        _, module, *arguments = line.split()
        if module == "pytest":
            continue
        source = (BENCH / f"{module.removeprefix('bench.')}.py").read_text()
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert f'"{option}"' in source, f"{module} has no {option}"


def test_a_process_that_dies_or_loses_the_device_is_followed_by_another_once(tmp_path: Path) -> None:
    for place, status in enumerate((3, 139)):
        run = run_script(tmp_path / str(place), "out", fails=f"*step_time*--gpu-cases*) exit {status} ;;")
        assert modules(run) == ["smoke", "pytest", "step_time", "step_time", "step_time"]
        assert [line.endswith("--skip-failed") for line in commands(run)[2:]] == [False, True, False]
    run = run_script(tmp_path / "ends", "out", fails="*step_time*--gpu-cases*) exit 1 ;;")
    assert modules(run) == ["smoke", "pytest", "step_time", "step_time"], "a failure alone is no reason"


def test_every_file_with_tests_that_want_a_gpu_is_run(tmp_path: Path) -> None:
    (command,) = [line for line in commands(run_script(tmp_path, "out")) if line.startswith("-m pytest")]
    tests = BENCH.parent / "tests"
    wanting = re.compile(r"skipif\(not torch\.cuda\.is_available|\bgraphs: GraphKind")
    files = {path.relative_to(tests.parent) for path in tests.rglob("test_*.py") if wanting.search(path.read_text())}
    assert len(files) > 5
    assert {Path(word) for word in command.split() if word.endswith(".py")} == files


def test_a_second_call_leaves_out_tests_that_passed(tmp_path: Path) -> None:
    run_script(tmp_path, "out")
    again = run_script(tmp_path, "out", "data")
    assert "tests: passed before" in again.stdout
    assert modules(again) == ["step_time", "step_time", "gpu_training", "gpu_training"]
    third = run_script(tmp_path, "out")
    names = ["step_time", "step_time", "depthwise_gradient", "step_time", "step_time"]
    assert modules(third) == names, "profiles come after training, and first"
    assert [("--no-profile" in line) for line in commands(third)] == [True, False, False, True, True]
    assert [("--combo-kernels" in line) for line in commands(third)] == [False, False, False, True, False]
    assert "training: no DATA" in third.stdout


def test_the_tuners_plan_is_trained_in_a_second_call_with_data(tmp_path: Path) -> None:
    run_script(tmp_path, "out", "data")
    tuned = [command for command in commands(run_script(tmp_path, "out", "data")) if "--tune " in command]
    assert len(tuned) == 1 and f"--data {tmp_path}/data" in tuned[0] and "--tune 60 --seeds 2" in tuned[0]
    assert not any("--tune" in command for command in commands(run_script(tmp_path, "out")))


def test_nothing_begins_when_time_is_up(tmp_path: Path) -> None:
    run = run_script(tmp_path, "out", "data", SECONDS_IN_ALL="7")
    assert run.returncode == 0
    assert modules(run) == []
    assert "step_time: no time left" in run.stdout


def test_a_part_is_stopped_in_time(tmp_path: Path) -> None:
    run = run_script(tmp_path, "out", fails="*step_time*) sleep 60 ;;", SECONDS_IN_ALL="14")
    assert "step_time: stopped after" in run.stdout
    assert "step_time_graphs: no time left" in run.stdout


@pytest.mark.parametrize("arguments", [[], ["--smal", "out"], ["out", "nosuch"], ["out", "data", "more"]])
def test_the_script_prints_its_usage(tmp_path: Path, arguments: list[str]) -> None:
    run = run_script(tmp_path, *arguments)
    assert run.returncode == 2
    assert "bench/gpu_ten_minutes.sh [--small] OUT [DATA]" in run.stderr


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    """Uncompiled: that a compiler works is known, and takes minutes."""
    write_archives(tmp_path / "data")
    environment = {
        "PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1",
        "SECONDS_IN_ALL": "1500",
    }  # fmt: skip
    command = ["bash", str(SCRIPT), "--small", str(tmp_path / "out"), str(tmp_path / "data")]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    statuses = {row["part"]: row["status"] for row in _lines(tmp_path / "out/parts.jsonl")}
    parts = ("smoke", "tests", "compile", "step_time", "tuned", "training", "large_kernels")
    assert statuses == dict.fromkeys(parts, 0), run.stdout[-3000:]
    row = json.loads((tmp_path / "out/step_time.json").read_text())["rows"]["tiny"]
    assert {COMPILED, WHOLE} < set(row) and row["failures"] == {}
    for name, more in (("training", {"tuning"}), ("large_kernels", set())):
        assert {line["what"] for line in _lines(tmp_path / f"out/{name}.jsonl")} == {"prices", "arm"} | more


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Compiled ahead.


def test_everything_that_is_measured_is_compiled_ahead() -> None:
    wanted = warm_compile.jobs(small=False)
    assert len(wanted) == len(set(wanted))
    assert {name for name, kind, _ in wanted if kind == COMPILED} == {*GPU_CASES, *STUDIES}
    for name, study in STUDIES.items():
        assert {mode for case, _, mode in wanted if case == name} == set(study.modes)
    graphs = {(name, step) for name, kind, step in wanted if kind == GRAPHS}
    assert graphs == {
        (name, step) for name in ("resnet18-cifar", "resnet18-cifar-b512") for step in ("full", *CONFIGS)
    }  # fmt: skip


def test_jobs_run_side_by_side_are_noted_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/bash\ncase "$*" in *slow*) exec sleep 60 ;; *bad*) exit 1 ;; esac\n')
    fake.chmod(0o755)
    monkeypatch.setattr(warm_compile.sys, "executable", str(fake))
    wanted = [("a", COMPILED, "full"), ("b", COMPILED, "bad"), ("c", COMPILED, "slow"), ("d", COMPILED, "4/3")]
    assert warm_compile.run_all(wanted, tmp_path / "notes", 5, at_once=2) == 2
    assert sorted(path.name for path in (tmp_path / "notes").glob("*.done")) == [
        "a_compiled_full.done", "d_compiled_4-3.done"
    ]  # fmt: skip
    assert warm_compile.run_all([wanted[0]], tmp_path / "notes", 5, at_once=2) == 0, "it is compiled already"


# Whole steps.


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that does nothing takes no time."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)


@pytest.mark.usefixtures("uncompiled")
def test_whole_steps_of_all_modes_are_captured() -> None:
    recorder = Recorder()
    found = step_time.measure(TINY["tiny"], CPU, (COMPILED, WHOLE), 2, 8, 0.1, False, recorder)
    whole = found[WHOLE]
    assert whole["captures"] == 1 + len(CONFIGS)
    assert whole["uncaptured"] is None and whole["optimizer outside"] is None
    assert recorder.replays >= 4 * 3, "what is timed is replayed"
    assert set(whole["whole / loop"]) == {"full", *CONFIGS}
    assert {"plain compiled full / full", "plain compiled half / full", "4/3 / full"} < set(whole)
    assert whole["plain compiled full / full"]["n"] == 2
    assert set(found[COMPILED]["peak memory, bytes"]) == {"full", "low", "resolution only"}


@pytest.mark.usefixtures("uncompiled")
def test_a_mode_that_is_chosen_runs() -> None:
    """Each name runs its own mode: the losses of smaller images, and of pooled kernels, are others."""
    found = steps(TINY["tiny"], CPU, (WHOLE,), 8)
    modes = []
    assert found.whole is not None
    net: Any = found.whole.net
    for name, step in found.kinds[WHOLE].items():
        step()
        modes.append((name, str(net.last_mode)))
    assert modes == [(name, name) for name in ("full", *CONFIGS)]


def test_the_table_of_whole_steps() -> None:
    ratios = {f"{name} / full": ratio(value) for name, value in (("low", 0.38), ("resolution only", 0.5), ("4/3", 0.8))}
    peers = {f"plain compiled {name} / full": ratio(4.0) for name in ("full", "half")}
    row = {
        **ratios, **peers, "full seconds": ratio(0.0023), "captures": 4, "uncaptured": None, "optimizer outside": None,
        "runner seconds": ratio(25e-6), "pool, bytes": {"full": 100, "all": 105},
        "whole / loop": {"full": ratio(0.25), "low": ratio(0.125)},
    }  # fmt: skip
    rows = {"resnet18-cifar": {"batch": 125, WHOLE: row}, "other": {"batch": 1, COMPILED: row}}
    cells = "| resnet18-cifar | 125 | 2.30 (≤ 2.40) | 0.380 (≤ 0.40) | 0.500 (≤ 0.50) | 0.800 | 0.250 | 0.125 |"
    assert whole_step_table(rows, "cuda").splitlines()[-1] == f"{cells} 4.000 | 4.000 | 25 | 1.05 | 4 |"
    assert "2.30" not in whole_step_table(rows, "cpu"), "absolute times are a GPU's only"
    row["uncaptured"] = "a sync"
    assert whole_step_table(rows, "cuda").splitlines()[-1].endswith("| 4 | a sync |")
    assert whole_step_table({"other": rows["other"]}, "cuda") == ""
