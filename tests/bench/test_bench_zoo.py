"""The sweep: real checks of tiny models, each in its process; files that go on where they stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import fx, nn

from bench.zoo import Record, sweep
from bench.zoo.__main__ import main
from bench.zoo.check import check_model
from bench.zoo.compare import WrongPairError, compare, undo_zero_init
from bench.zoo.measure import PeakMemory
from bench.zoo.names import family, model_names, part
from bench.zoo.plot import draw as draw_zoo
from bench.zoo.record import read_records
from bench.zoo.summary import summarize, summary_lines, to_csv, to_markdown
from lowmode_fx import ModePair, build_pair
from lowmode_fx.lowering.live import mode as live_mode
from lowmode_fx.lowering.live.shadows import Shadows
from passes.kernel_math import center_kernel

RIGHT = Record(
    "a", "resnet", "right", parameters=10**8, front_end="fx", pooled_convs=3, full_macs=100, low_macs=10,
    trace_seconds=1, build_seconds=2, peak_mb=200e6 / 2**20, gradients_checked=True,
    graphs={"fx": ""}, proven_seconds={"fx": 3.0},
)  # fmt: skip
RESIZED = Record(
    "e", "maxxvit", "right", "a bias", resized_maps=2, full_macs=100, low_macs=30, front_end="fx",
    trace_seconds=1, build_seconds=3, graphs={"fx": "a draw"}, proven_seconds={"fx": 5.0},
)  # fmt: skip
WHOLE = Record(
    "b", "levit", "right", "a table of positions", downsample_input=False, full_macs=100, low_macs=90, front_end="fx",
    trace_seconds=1, build_seconds=2,
)  # fmt: skip
REFUSED = Record("c", "levit", "refused", "it | fixes its size")
NOTHING = Record("d", "vit", "nothing", "no convolution")


@pytest.mark.parametrize(
    ("name", "status", "front_end"),
    [("test_resnet", "right", "fx"), ("test_convnext", "right", "fx"), ("test_vit", "nothing", "")],
)
def test_a_model_is_checked(name: str, status: str, front_end: str) -> None:
    record = check_model(name)
    assert (record.status, record.front_end) == (status, front_end), record.reason
    if status == "right":
        assert record.graphs == {"fx": ""} and record.proven_seconds["fx"] > 0
        assert 0 < record.low_macs < record.full_macs
        assert record.pooled_convs > 0
        assert record.parameters == sum(p.numel() for p in __import__("timm").create_model(name).parameters())


def test_a_detection_model_is_pooled_in_its_backbone() -> None:
    assert part("torchvision:fasterrcnn_resnet50_fpn") == "backbone"
    assert part("torchvision:resnet18") == part("resnet18") == ""


def small_pair(front_end: Any = "auto") -> ModePair:
    """Without a norm behind its last convolution, so that a bias or a scale shows."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ConvTranspose2d(4, 4, 5, 2, 1),
    )
    return build_pair(model, torch.zeros(2, 3, 16, 16), front_end=front_end)


def graphs_of(pair: ModePair) -> ModePair:
    """Of the same model, the graphs that fx gives, proven."""
    return build_pair(pair.model, torch.zeros(2, 3, 16, 16), front_end="fx")


def edit(graph_module: fx.GraphModule, name: str, index: int, value: Any) -> None:
    node = next(node for node in graph_module.graph.nodes if node.name == name)
    node.args = (*node.args[:index], value, *node.args[index + 1 :])
    graph_module.recompile()


IMAGES = [torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))]


def test_a_right_pair_passes_and_stays_as_it_was() -> None:
    pair = small_pair()
    before = {name: value.clone() for name, value in pair.model.state_dict().items()}
    compare(pair, IMAGES, gradients=True, graphs=[graphs_of(pair)])
    compare(pair, IMAGES, gradients=False)
    assert all(torch.equal(value, before[name]) for name, value in pair.model.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.model.parameters())


@pytest.mark.parametrize(
    ("graph", "node", "index", "value", "words"),
    [
        ("full", "conv2d_1", 3, (2, 2), "fx's full-mode outputs are not the model's, bit for bit"),
        ("full", "conv2d_1", 2, None, "fx's full-mode outputs are not the model's, bit for bit"),
        ("low", "conv2d_1", 2, None, "fx's low outputs are not live, bit for bit"),
        ("low", "average_kernel_1", 3, "sum", "fx's low outputs are not live, bit for bit"),
    ],
)
def test_a_wrong_graph_is_found_out(graph: str, node: str, index: int, value: Any, words: str) -> None:
    pair = small_pair()
    graphs = graphs_of(pair)
    edit(getattr(graphs, graph), node, index, value)
    with pytest.raises(WrongPairError, match=words):
        compare(pair, IMAGES, gradients=True, graphs=[graphs])


Pooled = Callable[..., torch.Tensor]


def cut_out(right: Pooled, call: Any, input: Any, weight: torch.Tensor, bias: Any) -> torch.Tensor:
    """As if the kernel were cut out of the middle."""
    middle = center_kernel(weight, (1, 1) if weight.shape[-1] == 3 else (3, 3))
    return right(call, input, nn.functional.interpolate(middle, weight.shape[2:]), bias)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (cut_out, "the low-mode output differs from an eager low-mode's by"),
        (lambda right, call, input, weight, bias: right(call, input, weight, bias) * 1.01, "output differs"),
        (
            lambda right, call, input, weight, bias: right(call, input, weight, bias.detach()),
            r"no finite low-mode gradient at \['3.bias', '4.bias'\]",
        ),
        (
            lambda right, call, input, weight, bias: right(call, input, 2 * weight.detach() - weight, bias),
            r"the low-mode gradient of 3\.weight differs from an eager low-mode's by 2e",
        ),
    ],
)
def test_a_wrong_low_step_is_found(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., torch.Tensor], words: str
) -> None:
    """Zero-init hides a gradient until that is undone; and then a tiny gradient counts as much as a large one."""
    pair, right = small_pair(), live_mode.run_pooled
    nn.init.zeros_(pair.model[1].weight)
    monkeypatch.setattr(live_mode, "run_pooled", partial(wrong, right))
    undo_zero_init(pair.model)
    with pytest.raises(WrongPairError, match=words):
        compare(pair, IMAGES, gradients=True)


def test_a_low_step_that_moves_buffers_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shadows, "in_place", lambda *_, **options: nullcontext())
    with pytest.raises(WrongPairError, match=r"a low step moves buffers: \['1.running_mean'"):
        compare(small_pair(), IMAGES, gradients=True)


def test_kernels_that_nothing_trains_are_left_alone_by_the_eager_low_mode_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1))
    model[2].requires_grad_(False)
    pair = build_pair(model, torch.zeros(2, 3, 16, 16))
    assert [change.site for change in pair.report.of("pool_weights").changes] == ["3"]
    compare(pair, IMAGES, gradients=True)


def test_only_zero_init_is_undone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.PReLU(init=1e-6))
    nn.init.zeros_(model[2].weight)
    before = {name: value.clone() for name, value in model.named_parameters()}
    undo_zero_init(model)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"2.weight", "3.weight"}


def test_peak_memory_counts_what_is_given_back_too() -> None:
    with PeakMemory() as peak:
        torch.ones(16, 1024, 1024)  # 64 MB, gone at once
    assert 60 < peak.megabytes < 90
    with PeakMemory() as peak:
        pass
    assert peak.megabytes < 8


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    out.write_text(RIGHT.to_line() + "\n" + REFUSED.to_line()[:20])  # cut off in the middle of a line
    seen: list[str] = []
    records = sweep(["a", "test_resnet"], out, jobs=1, resume=True, on_record=lambda each: seen.append(each.name))
    assert seen == ["test_resnet"]
    assert [record.name for record in records] == [record.name for record in read_records(out)] == ["a", "test_resnet"]
    assert records[1].status == "right", records[1].reason
    with pytest.raises(ValueError, match="exists; give --resume"):
        sweep(["a"], out)


def test_a_model_that_takes_too_long_or_is_unknown_ends_nothing(tmp_path: Path) -> None:
    records = sweep(["resnet18"], tmp_path / "late.jsonl", timeout=0.05)
    assert records[0].status == "timeout"
    records = sweep(["no_such_model", "test_resnet"], tmp_path / "unknown.jsonl", jobs=1)
    assert [record.status for record in records] == ["error", "right"]
    assert "timm has no such model" in records[0].reason


def test_the_summary_counts_what_it_says() -> None:
    records = [RIGHT, RESIZED, WHOLE, REFUSED, NOTHING]
    found = summarize(records)
    assert (found.models, found.nothing, found.counts) == (4, 1, {"right": 3, "refused": 1})
    assert (found.fitting, found.resized, found.whole, found.without_gradients) == (1, 1, 1, 2)
    assert (found.share, found.build_over_trace, found.memory_over_parameters) == (0.75, 2.0, 0.5)
    assert found.ratio_quartiles[1] == pytest.approx((0.1 + 0.3) / 2)
    lines = summary_lines(records)
    assert lines[0].startswith(
        "3 of 4 models with a poolable convolution give a right pair (75.0%); 0 wrong, 1 refused"
    )
    assert lines[1] == (
        "of these 1 train on smaller images, 0 on smaller images of a size that can be halved more often, "
        "1 on smaller images with a map of fixed size resized, 1 on full-size images with only kernels pooled"
    )
    assert "build_pair takes 2.0 × the time of tracing alone (median), and at most 0.50 × the memory" in lines[4]
    assert lines[5].startswith("fx's graphs are proven for 1 of 2 right models, and their steps are those of the model")
    assert lines[5].endswith("build_pair with the proofs takes 4.0 s of CPU time (median; worst 5.0)")
    markdown = to_markdown(records)
    assert "| no proof of fx's graphs | why |" in markdown and "| e | a draw |" in markdown
    assert "| levit | 2 | 1 | 0.900 | 0 |" in markdown
    assert "| c | refused | it ¦ fixes its size |" in markdown
    assert "| b | 0.900 | a table of positions |" in markdown
    header, row = to_csv([RIGHT]).splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["ratio"] == "0.1"


def test_a_record_survives_its_line() -> None:
    records = [RIGHT, RESIZED, WHOLE, REFUSED, NOTHING]
    assert "resized_maps" not in RIGHT.to_line() and '"resized_maps": 2' in RESIZED.to_line()
    assert [Record(**json.loads(record.to_line())) for record in records] == records


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([RIGHT, REFUSED, NOTHING], ["half-size images (1)"]),
        (
            [RIGHT, WHOLE, RESIZED, RIGHT],
            [
                "half-size images (2)",
                "half-size images, a map resized inside (1)",
                "full-size images, only kernels pooled (1)",
            ],
        ),
    ],
)
def test_the_legend_names_what_is_there(records: list[Record], told: list[str]) -> None:
    figure = Figure()
    draw_zoo(figure, [record for record in records if record.status == "right"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == told


def test_names_of_both_zoos() -> None:
    assert model_names(["timm"], "test_resnet") == ["test_resnet"]
    assert "torchvision:resnet18" in model_names(["torchvision"], "resnet*")
    assert not [name for name in model_names(["torchvision"]) if "raft" in name]
    assert family("torchvision:fcn_resnet50") == "torchvision.segmentation.fcn"
    with pytest.raises(ValueError, match="matches none of"):
        model_names(["timm"], "zzz*")
    with pytest.raises(ValueError, match="is unknown; give one of timm, torchvision, transformers, ultralytics"):
        model_names(["tim"])


@pytest.mark.parametrize("package", ["transformers", "ultralytics"])
def test_a_zoo_that_is_not_installed_is_an_error(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    with pytest.raises(ValueError, match=rf"{package}.* is not installed; run pip install 'lowmode-fx\[zoo\]'"):
        model_names([package])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformers:resnet_basic", "ultralytics:yolo11n-cls"])
def test_a_model_of_another_package_is_called_in_its_own_way(name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    record = check_model(name, ())
    assert record.status == "right", record.reason
    assert record.pooled_convs > 0


def test_names_of_a_file_are_checked_in_its_order(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("test_vit\ntest_resnet\n")
    out = tmp_path / "zoo.jsonl"
    main(["--names", str(names), "--jobs", "1", "--graphs", "", "--out", str(out)])
    assert [record.name for record in read_records(out)] == ["test_vit", "test_resnet"]


def test_the_benchmark_writes_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "zoo.jsonl"
    main(["--source", "timm", "--filter", "test_[rv]*t", "--jobs", "1", "--out", str(out)])
    assert "1 of 1 models with a poolable convolution give a right pair (100.0%)" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".json", ".md", ".csv", ".png"}
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["header"]["versions"].keys() == {"torch", "torchvision", "timm"}
    assert (result["rows"]["timm"]["models"], result["rows"]["timm"]["share"]) == (1, 1.0)
