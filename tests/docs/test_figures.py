"""Figures in the README and in the pages are those of their result files; reports are what the tool prints."""

from __future__ import annotations

import inspect
import json
import math
import re
import textwrap

import pytest
import torch
from pages import PAGES, ROOT, WORDS

from bench import (
    ablation_report,
    captured_overhead,
    depthwise_gradient,
    front_ends,
    gpu_report,
    kernel_scores,
    large_kernels_report,
    published_macs,
    rehearsal,
    step_report,
    table1_report,
)
from bench.ablation_lines import Line
from bench.large_kernels_report import Line as LargeLine
from bench.zoo.record import read_records
from bench.zoo.summary import summarize, zoo_lines
from lowmode_fx import LowModeConfig, build_pair, count_flops
from lowmode_fx.cli.models import create_model
from lowmode_fx.cli.report import render_report
from lowmode_fx.cli.report_command import report
from lowmode_fx.cli.spelling import command_spelling
from passes.spelling import spelled

ACCURACY, MACS = PAGES["docs/benchmarks/accuracy.md"], PAGES["docs/benchmarks/macs.md"]
KERNELS, TIME = PAGES["docs/benchmarks/kernels.md"], PAGES["docs/benchmarks/step-time.md"]
ZOO = PAGES["docs/benchmarks/zoo.md"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_reports_are_what_the_tool_prints(name: str) -> None:
    with spelled(command_spelling(inspect.signature(report).parameters)):
        pair = build_pair(create_model(name), torch.zeros(2, 3, 224, 224))
        flops = count_flops(pair)
        assert textwrap.indent(render_report(name, pair, flops), "    ") in MACS
    for page in (MACS, PAGES["docs/benchmarks/index.md"]):
        said = " ".join(page.split())
        assert re.search(rf"ResNet-{name.removeprefix('resnet')}\b[^;.]*? {flops.ratio:.4f}\b", said), page


@pytest.mark.parametrize(("name", "ratio"), [("resnet18", "0.1298"), ("resnet50", "0.5763")])
def test_what_dropping_the_stem_max_pool_costs(name: str, ratio: str) -> None:
    pair = build_pair(create_model(name), torch.zeros(2, 3, 224, 224), LowModeConfig(drop_maxpools="stem"))
    assert f"{count_flops(pair).ratio:.4f}" == ratio
    assert f"{ratio} for ResNet-{name.removeprefix('resnet')}" in " ".join(MACS.split())


def test_published_figures_are_those_of_the_file() -> None:
    rows = json.loads((ROOT / "bench/results/published_macs.json").read_text())["rows"]
    assert published_macs.table(rows) in MACS
    same = [row for row in rows.values() if row["macs"] == row["flop_counter_macs"]]
    theirs = [row for row in rows.values() if row["torchvision"] is not None]
    near = [row for row in theirs if f"{row['macs'] / 1e9:.3f}" == f"{row['torchvision']:.3f}"]
    said = " ".join(MACS.split())
    assert len(same) == len(rows) == 25 and "25 networks in 10⁹ multiply-adds. All have exactly the macs" in said
    assert f"of torchvision's {len(theirs)}, {len(near)} have the figure" in said


def test_how_near_transforms_come_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/kernel_scores_cpu.json").read_text())["rows"]
    assert kernel_scores.short_table(rows, "convmixer-13", 40) in KERNELS


def test_how_fast_gradients_are_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/depthwise_gradient_cpu.json").read_text())["rows"]
    assert depthwise_gradient.table(rows) in KERNELS


def test_what_low_steps_gain_is_what_was_measured() -> None:
    assert rehearsal.table(json.loads((ROOT / "bench/results/rehearsal_cpu.json").read_text())["rows"]) in KERNELS


ABLATIONS = [
    "resnet8, rate 0.4",
    "resnet8-5x5, rate 0.4",
    "resnet8",
    "resnet8-5x5",
    "resnet8 on Fashion-MNIST, rate 0.4",
    "resnet8 on Fashion-MNIST",
    "efficientnet",
    "efficientnet-4x4",
]


@pytest.mark.parametrize("network", ABLATIONS)
def test_accuracy_in_time_is_what_was_measured(network: str) -> None:
    rows = json.loads((ROOT / "bench/results/ablation_cpu.json").read_text())["rows"]
    assert ablation_report.table(rows, network) in ACCURACY


def test_the_case_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/ablation_cpu.json").read_text())["rows"]
    assert ablation_report.case(rows) in PAGES["README.md"]
    ends = []
    for network, epochs, low, steep in (
        ("resnet8", 16, 14, "17 epochs"),
        ("resnet8-5x5", 12, 12, "longer, 15 epochs"),
    ):
        found = {line.arm: line for line in ablation_report.lines(rows, f"{network}, rate 0.4")}
        full, ladder = found[f"full-mode, {epochs} epochs"], found[f"default ladder, {low} epochs, rate over macs"]
        fine, documented = (found[f"Composer's ramp, {low} epochs{told}"] for told in (", rate over macs", ""))
        small = next(line for arm, line in found.items() if arm.startswith(f"ladder from r = 8/3, {steep}"))
        assert small.time < 0.505 * full.time and max(fine.time, ladder.time) < 0.545 * full.time
        assert min(full.seeds, ladder.seeds, fine.seeds, small.seeds) >= 5
        (slower,) = ablation_report.lines(rows, f"{network}, rate 0.2")
        assert slower.accuracy < full.accuracy and slower.arm == full.arm
        ends.append((full, ladder, fine, small, documented, found))
    (full, ladder, fine, small, documented, three), (other, _, _, other_small, _, five) = ends
    # In words: half of the time gives full-mode's accuracy.
    assert fine.time < 0.505 * full.time and full.accuracy - fine.accuracy < math.hypot(full.error, fine.error)
    for reference, line in ((full, small), (other, other_small)):
        assert reference.accuracy - line.accuracy < math.hypot(reference.error, line.error)
    other_plan = {name: found for name, found in five.items() if name.startswith("ladder from r = 8/3")}
    plain, more = (
        other_plan["ladder from r = 8/3, 13 epochs, rate over macs"],
        three["ladder from r = 8/3, longer, 18 epochs, rate over macs"],
    )
    assert f"they gain {_points(other_small, plain)} points there, and lose {_points(small, more)} with 3×3" in WORDS
    longer = five["default ladder, 14 epochs, rate over macs"]
    assert longer.time < 0.635 * other.time
    assert f"with 5×5, 0.63 of the time ends {_points(longer, other)} points above" in WORDS
    assert f"three modes ends {_points(full, ladder)} points below full-mode with 3×3 kernels" in WORDS
    # The tuner's plan is that ladder, with the same runs; it stands in the table as one row.
    for line, found, reference in ((small, three, full), (plain, five, other)):
        tuned = found["tuner's ladder, rate over macs"]
        assert (tuned.accuracy, tuned.error, tuned.seeds) == (line.accuracy, line.error, 5)
        assert tuned.time < 0.505 * reference.time
    assert (
        f"{_points(small, full)} points above full-mode with 3×3 kernels, and {_points(other, plain)} points" in WORDS
    )
    steps = three["default ladder, 14 epochs"]
    assert f"then ends {_points(ladder, steps)} points lower" in WORDS
    assert f"Composer's resizing ends {_points(full, documented)} points below full-mode" in WORDS


def _points(better: Line | LargeLine, worse: Line | LargeLine) -> str:
    return f"{100 * (better.accuracy - worse.accuracy):.1f}"


def test_at_a_lower_rate_a_ladder_saves_less() -> None:
    rows = json.loads((ROOT / "bench/results/ablation_cpu.json").read_text())["rows"]
    short = []
    for network, full, arm, half in (
        ("resnet8", "full-mode, 16 epochs", "17 epochs", "14 epochs"),
        ("resnet8-5x5", "full-mode, 12 epochs", "14 epochs", "12 epochs"),
    ):
        found = {line.arm: line for line in ablation_report.lines(rows, network)}
        ladder, plain = found[f"default ladder, {arm}, rate over macs"], found[f"default ladder, {arm}"]
        peer = found[f"Composer's ramp, {arm}"]
        assert ladder.accuracy > found[full].accuracy and ladder.time < 0.635 * found[full].time
        assert ladder.accuracy - 2 * math.hypot(ladder.error, peer.error) > peer.accuracy
        short.append(_points(found[full], found[f"default ladder, {half}, rate over macs"]))
        if network == "resnet8":
            assert f"the same ladder ends {_points(ladder, plain)} points lower" in WORDS
    first, second = short
    told = (
        f"half of the time it ends {first} points below full-mode with 3×3 kernels, and {second} points below with 5×5"
    )
    assert told in WORDS


def test_networks_that_lose_are_said_to_lose() -> None:
    rows = json.loads((ROOT / "bench/results/ablation_cpu.json").read_text())["rows"]
    found = {line.arm: line for line in ablation_report.lines(rows, "efficientnet")}
    ladders = [line for arm, line in found.items() if not line.full]
    assert max(line.accuracy for line in ladders) < found["full-mode, 8 epochs"].accuracy
    larger = {line.arm: line for line in ablation_report.lines(rows, "efficientnet-4x4")}
    ladder, full, cut = (
        larger[arm]
        for arm in ("default ladder, 12 epochs, rate over macs", "full-mode, 12 epochs", "full-mode, 8 epochs")
    )
    assert cut.accuracy < ladder.accuracy < full.accuracy and ladder.time < cut.time
    said = f"ladder ends at {100 * ladder.accuracy:.1f} % in {ladder.time / 12:.2f} of the time, full-mode at"
    assert (
        f"{said} {100 * full.accuracy:.1f} % and, in {cut.time / 12:.2f} of it, at {100 * cut.accuracy:.1f} %" in WORDS
    )
    rows = json.loads((ROOT / "bench/results/large_kernels_cpu.json").read_text())["rows"]
    for network in ("convnext-small", "inceptionnext-small"):
        arms = {line.arm: line for line in large_kernels_report.lines(rows, f"{network}, 4000 images, 10 epochs")}
        for arm in ("averaged", "bicubic"):
            assert arms[f"{arm}, rate over time"].accuracy < arms["full-mode, cut"].accuracy


OVER_TIME = "rate over time"
FROM_8_3 = f"bicubic from r = 8/3, {OVER_TIME}"


def large_kernels(network: str) -> tuple[dict[tuple[str, float], LargeLine], dict[str, float], str]:
    """The lines of a network's study by arm and budget, its costs, and the study's key."""
    rows = json.loads((ROOT / "bench/results/large_kernels_cpu.json").read_text())["rows"]
    (study,) = (key.removesuffix(" / prices") for key in rows if key.startswith(network) and key.endswith(" / prices"))
    costs = {mode: found["median"] for mode, found in rows[f"{study} / prices"]["prices"].items()}
    return {(line.arm, line.budget): line for line in large_kernels_report.lines(rows, study)}, costs, study


def told(line: LargeLine) -> str:
    return f"{100 * line.accuracy:.2f} ± {100 * line.error:.2f}"


def within_an_error(one: LargeLine, other: LargeLine) -> bool:
    return abs(one.accuracy - other.accuracy) < math.hypot(one.error, other.error)


def with_products(line: LargeLine, costs: dict[str, float]) -> str:
    """A run's share of full-mode's time, if full steps took gradients by products."""
    full = costs["full, gradients by products"]
    parts = (part.split(" ", 1) for part in line.epochs.split(" + "))
    return f"{sum(int(count) * (costs | {'full': full})[mode] for count, mode in parts) / (10 * full):.2f}"


def test_what_large_kernels_gain_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/large_kernels_cpu.json").read_text())["rows"]
    # Each study has its costs, and then its arms.
    assert all(table in KERNELS for table in list(large_kernels_report.tables(rows))[1::2])
    found, costs, study = large_kernels("convmixer-13")
    assert large_kernels_report.case(rows, study) in PAGES["README.md"]
    full, quarter, fifth = found["full-mode", 1.0], found[FROM_8_3, 0.25], found[FROM_8_3, 0.2]
    # In words: full-mode's accuracy in a quarter of its time.
    assert within_an_error(full, quarter) and quarter.time < 2.5 and min(full.seeds, quarter.seeds) == 10
    said = f"{told(quarter)} % after 7 epochs at r = 8/3, 10 at r = 2 and a full one, against {told(full)} %"
    assert f"{said} (ten seeds each)" in WORDS
    alone, averaged = found[f"bicubic, {OVER_TIME}", 0.25], found[f"averaged, {OVER_TIME}", 0.25]
    assert f'{told(alone)} % (`"bicubic"`) and {told(averaged)} % (`"avg"`)' in WORDS
    cut = found["full-mode, cut", 0.5]
    assert f"In a fifth they end {_points(full, fifth)} points below it, and {_points(fifth, cut)} above" in WORDS
    assert fifth.time < 2.06 and fifth.seeds >= 5
    half = [found[f"{arm}, {OVER_TIME}", 0.5] for arm in ("bicubic", "averaged")]
    ends = " to ".join(_points(line, full) for line in half)
    assert f"In half of it they end {ends} points above full-mode" in WORDS
    assert all(line.accuracy > full.accuracy and line.time < 5.04 and line.seeds >= 3 for line in half)
    ramp, less = found[f"Composer's ramp, {OVER_TIME}", 0.5], found[f"Composer's ramp, {OVER_TIME}", 0.25]
    assert f"{told(ramp)} % in {ramp.time / 10:.2f} of its time, which pooled kernels reach in" in WORDS
    assert within_an_error(ramp, quarter) and ramp.time > 1.9 * quarter.time
    more = f"{full.time / quarter.time:.1f} | {ramp.time / quarter.time:.1f} |"
    assert f"| here | ConvMixer, 4,000 images of CIFAR-10, a CPU core | {more}" in KERNELS
    assert f"they end {_points(quarter, less)} points below pooled kernels" in WORDS
    assert quarter.accuracy - 2 * math.hypot(quarter.error, less.error) > less.accuracy and less.seeds >= 3
    assert f"the run in a quarter would take {with_products(quarter, costs)} of full-mode's time" in WORDS
    full_cost = costs["full, gradients by products"]
    assert f"with which a full step would cost {full_cost:.2f}" in WORDS
    assert f"A pooled low step costs {costs['bicubic']:.2f} of a full one" in WORDS


def test_what_pooling_gains_a_rep_lk_net_is_what_was_measured() -> None:
    found, costs, _ = large_kernels("replknet-small")
    full, pooled = found["full-mode", 1.0], found[f"bicubic, {OVER_TIME}", 0.2]
    assert min(full.seeds, pooled.seeds) >= 5 and pooled.time < 0.205 * full.time
    assert pooled.accuracy > full.accuracy
    assert f"reaches it in a fifth**: {told(pooled)} % against {told(full)} % (n = 5)" in WORDS
    averaged, ramp = found[f"averaged, {OVER_TIME}", 0.2], found[f"Composer's ramp, {OVER_TIME}", 0.2]
    assert f'{told(averaged)} % (`"avg"`, n = {averaged.seeds})' in WORDS and averaged.accuracy > full.accuracy
    assert pooled.accuracy - 2 * math.hypot(pooled.error, ramp.error) > ramp.accuracy
    assert f"end at {told(ramp)} % in {ramp.time / 10:.2f} of the time" in WORDS
    longest = found[f"Composer's ramp, {OVER_TIME}", 0.5]
    assert longest.accuracy < full.accuracy - 2 * full.error
    more = f"{full.time / pooled.time:.1f} | not reached in {longest.time / pooled.time:.1f} times the time |"
    assert f"| here | RepLKNet-like, 2,000 images of CIFAR-10, a CPU core | {more}" in KERNELS
    documented = found["Composer's ramp", 0.25]
    assert f"as documented at {told(documented)} % in {documented.time / 10:.2f}" in WORDS
    assert f"the run in a fifth would take {with_products(pooled, costs)} of full-mode's time" in WORDS


def test_what_a_gpu_gains_is_what_was_measured() -> None:
    results, page = ROOT / "bench/results", PAGES["docs/benchmarks/gpu.md"]
    training = gpu_report.training_table(gpu_report.read_rows(results / "gpu_training_cuda.jsonl"))
    assert training in page
    assert training in PAGES["README.md"]
    rows = json.loads((results / "step_time_cuda.json").read_text())["rows"]
    assert gpu_report.step_table(rows) in page
    loop, whole = (rows["resnet18-cifar"][kind]["seconds"] for kind in ("compiled", "whole step"))
    said = f"a full step takes {1000 * whole['full']['median']:.1f} ms instead of"
    assert f"{said} {1000 * loop['plain compiled full']['median']:.1f}" in WORDS
    (costs,) = gpu_report.read_rows(results / "gpu_large_kernels_cuda.jsonl")
    assert gpu_report.cost_table(costs) in page
    times = costs["seconds"]["whole step"]
    assert f"takes {times['averaged'] / times['full']:.2f} of a full step with kernels averaged" in WORDS
    assert f"and {times['kept 4'] / times['full']:.2f} with kernels kept" in WORDS


@pytest.mark.parametrize("name", ["step_time_cpu", "step_time_cpu_others"])
def test_step_times_are_what_was_measured(name: str) -> None:
    rows = json.loads((ROOT / f"bench/results/{name}.json").read_text())["rows"]
    assert step_report.short_table(rows, "cpu") in TIME


def test_what_the_switch_costs_is_what_was_measured() -> None:
    row = json.loads((ROOT / "bench/results/overhead_cpu.json").read_text())["rows"]["resnet18-cifar"]
    python, whole = row["python of the switch, microseconds"], row["net / compiled graph"]
    said = " ".join(TIME.split())
    assert f"costs {python['median']:.0f} µs of Python a step (median of {python['n']:,} calls" in said
    assert f"{row['python / low step']:.2%} of a low step".replace("%", " %") in said
    told = f"{whole['median']:.2f} times (quartiles {whole['q1']:.2f} to {whole['q3']:.2f}, n = {whole['n']})"
    assert f"whole low steps of a net take {told}" in said


def test_the_python_around_a_captured_step_is_what_was_measured() -> None:
    found = json.loads((ROOT / "bench/results/captured_overhead_cpu.json").read_text())
    rows, settings = found["rows"], found["header"]["settings"]
    assert captured_overhead.table(rows) in TIME
    row, said = rows["resnet18-cifar"], " ".join(TIME.split())
    assert f"lower quartiles of {settings['blocks'] * settings['block']:,} calls" in said
    assert row["is the model unchanged"]["q1"] < 30
    assert f"a whole step takes {row['a step']['q1']:.0f} µs of Python" in said
    assert f"about {round(row['a step']['q1'], -1):.0f} µs of a CPU" in PAGES["docs/train/train-step.md"]


def test_the_papers_table_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/table1_cpu.json").read_text())["rows"]
    assert table1_report.table(rows, gpu=False) in ACCURACY


def test_the_zoo_is_what_its_records_say() -> None:
    records = read_records(ROOT / "bench/results/zoo.jsonl")
    assert zoo_lines(records) in ZOO
    assert json.loads((ROOT / "bench/results/zoo.json").read_text())["rows"]["all"] == json.loads(
        json.dumps(summarize(records).to_dict())
    )


def test_graphs_take_as_long_as_the_model() -> None:
    rows = json.loads((ROOT / "bench/results/front_ends_cpu.json").read_text())["rows"]
    assert front_ends.table(rows) in TIME
    ratios = [each for row in rows.values() for each in row["graph / model"].values()]
    assert all(abs(each["median"] - 1) < 0.035 and each["q1"] < 1 < each["q3"] for each in ratios)
    assert all(0.045 < row["build seconds"]["auto"] < 0.205 for row in rows.values())


def test_what_blocks_cost_is_what_was_measured() -> None:
    results = json.loads((ROOT / "bench/results/block_compile_cpu.json").read_text())["rows"]
    row = results["demo ResNet-10"]
    for name, compiled, steps in (
        (
            "ResNet-50",
            "compiles both modes in {:.0f} s of CPU time instead of {:.0f}",
            "a full step takes {:.2f} of the whole's, a low one {:.2f}",
        ),
        ("EfficientNet-B0", "compiles in {:.0f} s instead of {:.0f}", "for steps of {:.2f} and {:.2f}"),
    ):
        each = results[name]
        assert compiled.format(*(each[f"{arm}, cold"]["cpu_seconds"] for arm in ("blocks", "whole"))) in WORDS
        ratios = (each["steps"][mode]["blocks over whole"]["median"] for mode in ("full", "low"))
        assert steps.format(*ratios) in WORDS
    cold, warm = ([row[f"{arm}, {when}"]["cpu_seconds"] for arm in ("whole", "blocks")] for when in ("cold", "warm"))
    rows = {
        "compiling both modes, empty cache, s": [*(f"{seconds:.0f}" for seconds in cold), ""],
        "the same, compiled before, s": [*(f"{seconds:.1f}" for seconds in warm), ""],
    }
    for mode in ("full", "low"):
        ratios = {arm: f"{times['median']:.2f}" for arm, times in row["steps"][mode].items()}
        arms = [ratios.get(f"{arm} over whole", "1") for arm in ("whole", "blocks", "uncompiled")]
        rows[f"a {mode} step, channels_last images"] = arms
        arms = [ratios[f"{arm}, contiguous images over whole"] for arm in ("whole", "blocks", "uncompiled")]
        rows[f"a {mode} step, contiguous images"] = arms
        assert 5 < row["steps"][mode]["blocks"]["median"] - row["steps"][mode]["whole"]["median"] < 7
    for told, cells in rows.items():
        assert f"| {told} | {' | '.join(cells).rstrip()} |" in TIME


def test_killed_ranks_all_resumed() -> None:
    rows = json.loads((ROOT / "bench/results/kill_ranks_cpu.json").read_text())["rows"]
    assert rows["count"] == {"kills": 20, "same_bits": 20}
    assert sum(each["same_bits"] for each in rows["kills"]) == len(rows["kills"]) == 20
    assert "was killed 20 times" in PAGES["docs/train/distributed.md"]
