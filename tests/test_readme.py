"""The README is true: its example runs, its reports are what the tool prints, its links lead somewhere."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from bench import ablation_report, kernel_scores, rehearsal, step_report, table1_report
from bench.zoo.record import read_records
from bench.zoo.summary import summarize, zoo_lines
from lowmode_fx import LowModeConfig, build_pair, count_flops
from lowmode_fx.cli.models import create_model
from lowmode_fx.cli.report import render_report

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
@pytest.mark.usefixtures("one_thread")
def test_every_python_example_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in re.findall(r"^(?:import|from) (lightning|accelerate|transformers)\b", code, re.MULTILINE):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lowmode-fx[{package}]'")
    # What torchrun tells each process, here the only one.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_reports_are_what_the_tool_prints(name: str) -> None:
    pair = build_pair(create_model(name), torch.zeros(2, 3, 224, 224))
    assert render_report(name, pair, count_flops(pair)) in README


@pytest.mark.parametrize(("name", "ratio"), [("resnet18", "0.1341"), ("resnet50", "0.5812")])
def test_what_dropping_the_stem_max_pool_costs(name: str, ratio: str) -> None:
    pair = build_pair(create_model(name), torch.zeros(2, 3, 224, 224), LowModeConfig(drop_maxpools="stem"))
    assert f"{count_flops(pair).ratio:.4f}" == ratio
    assert f"{ratio} for ResNet-{name.removeprefix('resnet')}" in README


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_options_table_names_every_option() -> None:
    section = README.split("## Options")[1].split("## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert documented == {entry.name for entry in fields(LowModeConfig)}


def test_how_near_transforms_come_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/kernel_scores_cpu.json").read_text())["rows"]
    assert kernel_scores.short_table(rows, "convmixer-13", 40) in README


def test_what_low_steps_gain_is_what_was_measured() -> None:
    assert rehearsal.table(json.loads((ROOT / "bench/results/rehearsal_cpu.json").read_text())["rows"]) in README


@pytest.mark.parametrize("network", ["resnet8", "resnet8-5x5"])
def test_accuracy_in_time_is_what_was_measured(network: str) -> None:
    rows = json.loads((ROOT / "bench/results/ablation_cpu.json").read_text())["rows"]
    assert ablation_report.table(rows, network) in README


@pytest.mark.parametrize("name", ["step_time_cpu", "step_time_cpu_others"])
def test_step_times_are_what_was_measured(name: str) -> None:
    rows = json.loads((ROOT / f"bench/results/{name}.json").read_text())["rows"]
    assert step_report.short_table(rows, "cpu") in README


def test_what_the_switch_costs_is_what_was_measured() -> None:
    row = json.loads((ROOT / "bench/results/overhead_cpu.json").read_text())["rows"]["resnet18-cifar"]
    python, whole = row["python of the switch, microseconds"], row["net / compiled graph"]
    said = " ".join(README.split())
    assert f"costs {python['median']:.0f} µs of Python a step (median of {python['n']:,} calls" in said
    assert f"{row['python / low step']:.2%} of a low step".replace("%", " %") in said
    told = f"{whole['median']:.2f} times (quartiles {whole['q1']:.2f} to {whole['q3']:.2f}, n = {whole['n']})"
    assert f"whole low steps of a net take {told}" in said


def test_the_papers_table_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/table1_cpu.json").read_text())["rows"]
    assert table1_report.table(rows, gpu=False) in README


def test_the_zoo_is_what_its_records_say() -> None:
    records = read_records(ROOT / "bench/results/zoo.jsonl")
    assert zoo_lines(records) in README
    assert json.loads((ROOT / "bench/results/zoo.json").read_text())["rows"]["all"] == json.loads(
        json.dumps(summarize(records).to_dict())
    )
