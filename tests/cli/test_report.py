"""The report in its four formats, and models by name."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from typer.testing import CliRunner

from lowmode_fx import (
    FlopReport,
    Ladder,
    LayerFlops,
    LowModeConfig,
    ModePair,
    build_ladder,
    build_pair,
    count_flops,
)
from lowmode_fx.cli import app
from lowmode_fx.cli.models import create_model, default_image_size
from lowmode_fx.cli.report import render_report, report_dict, summary_lines
from lowmode_fx.cli.report_command import report
from lowmode_fx.counting.step_cost import step_cost

FLOPS = FlopReport(
    ("low", "full"),
    (
        LayerFlops("stem", {"low": "7×7", "full": "7×7"}, {"low": 250_000_000, "full": 1_000_000_000}),
        LayerFlops("body", {"low": "1×1", "full": "3×3"}, {"low": 59_000_000, "full": 236_000_000}),
        LayerFlops("all upsample", {}, {"low": 500_000, "full": 0}, "other"),
    ),
    {"aten::relu": "elementwise"},
    (LayerFlops("all batch_norm", {}, {"low": 3_000_000, "full": 3_000_000}, "other"),),
)
THREE = FlopReport(
    ("r4", "r2", "full"),
    (
        LayerFlops("stem", {"r4": "7×7", "r2": "7×7", "full": "7×7"}, {"r4": 10**6, "r2": 4 * 10**6, "full": 10**7}),
        LayerFlops("body", {"r4": "1×1", "r2": "3×3", "full": "5×5"}, {"r4": 10**5, "r2": 10**6, "full": 10**7}),
        LayerFlops("all upsample", {}, {"r4": 0, "r2": 500_000, "full": 0}, "other"),
    ),
    {},
)


def network() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 8, 7, padding=3), pool=nn.MaxPool2d(2), body=nn.Conv2d(8, 8, 3), last=nn.Conv2d(8, 8, 3)
        )
    )


@pytest.fixture(scope="module")
def pair() -> ModePair:
    return build_pair(network(), torch.zeros(2, 3, 33, 32), LowModeConfig(drop_maxpools="stem"))


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    configs = [LowModeConfig(ratio=2, kernel_ratio=1), LowModeConfig(ratio=4, drop_maxpools="stem")]
    return build_ladder(network(), torch.zeros(2, 3, 32, 32), configs)


PUBLISHED = "(per image, forward: convolutions, linear layers and matrix products; flops are 2 × macs)"


# Formats -------------------------------------------------------------------------------------------------------------


POINTS = (
    "note: 2 kernels of 3×3 are pooled to 1×1, as in the paper, whose setting ended below full-mode cut to the same "
    "time in the runs measured here; give kernel_ratio=1 to keep kernels"
)


def test_the_summary_says_what_was_done(pair: ModePair) -> None:
    assert summary_lines("tiny", pair, FLOPS) == [
        f"tiny: 1,236.00 Mmacs full at 3×33×32, 309.00 Mmacs low at 3×17×16, low / full = 0.2500 {PUBLISHED}",
        "with norms and the rest, as fvcore counts them: 1,236.00 Mmacs full, 309.50 Mmacs low, low / full = 0.2504",
        "on weights, once a step: 3.00 Mmacs full, 3.00 Mmacs low",
        "traced by fx",
        "drop_maxpools: 1 × 2×2 stride 2×2 → dropped",
        "pool_weights: 2 × 3×3 → 1×1",
        "pool_weights: 1 left alone (stem: it reads the image)",
        "note: 33×32 is not divisible by 2: low-mode images are 17×16 (rounded up)",
        "note: low-mode returns maps of 13×12 where full-mode returns 12×12; set restore_output=True to resize them",
        POINTS,
    ]


def test_the_table(pair: ModePair) -> None:
    lines = render_report("tiny", pair, FLOPS).splitlines()
    assert lines[:10] == summary_lines("tiny", pair, FLOPS)
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines[11:]]
    assert cells == [
        ["layer", "full kernel", "low kernel", "full Mmacs", "low Mmacs", "low / full"],
        ["stem", "7×7", "7×7", "1,000.00", "250.00", "0.2500"],
        ["body", "3×3", "1×1", "236.00", "59.00", "0.2500"],
        ["total", "1,236.00", "309.00", "0.2500"],
        ["all upsample", "0.00", "0.50"],
        ["with norms and the rest", "1,236.00", "309.50", "0.2504"],
        ["once a step, on weights: batch_norm", "3.00", "3.00", "1.0000"],
    ]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    "length",
    [
        40,
        pytest.param(90),
    ],
)
def test_the_table_keeps_whole_names(pair: ModePair, length: int) -> None:
    name = ".".join(["block"] * 20)[:length]
    row = LayerFlops(name, {"low": "1×1", "full": "3×3"}, {"low": 1, "full": 4})
    flops = FlopReport(("low", "full"), (row,), {})
    text = render_report("tiny", pair, flops)
    assert name in text and "…" not in text


def test_markdown(pair: ModePair) -> None:
    lines = render_report("tiny", pair, FLOPS, "markdown").splitlines()
    assert lines[:10] == [f"- {line}" for line in summary_lines("tiny", pair, FLOPS)]
    assert lines[10:] == [
        "",
        "| layer | full kernel | low kernel | full Mmacs | low Mmacs | low / full |",
        "| :-- | --: | --: | --: | --: | --: |",
        "| stem | 7×7 | 7×7 | 1,000.00 | 250.00 | 0.2500 |",
        "| body | 3×3 | 1×1 | 236.00 | 59.00 | 0.2500 |",
        "| total |  |  | 1,236.00 | 309.00 | 0.2500 |",
        "| all upsample |  |  | 0.00 | 0.50 |  |",
        "| with norms and the rest |  |  | 1,236.00 | 309.50 | 0.2504 |",
        "| once a step, on weights: batch_norm |  |  | 3.00 | 3.00 | 1.0000 |",
    ]


def test_csv(pair: ModePair) -> None:
    rows = list(csv.DictReader(io.StringIO(render_report("tiny", pair, FLOPS, "csv"))))
    assert list(rows[0]) == ["layer", "full_kernel", "low_kernel", "full_macs", "low_macs", "ratio", "kind"]
    assert rows[1] == {
        "layer": "body",
        "full_kernel": "3×3",
        "low_kernel": "1×1",
        "full_macs": "236000000",
        "low_macs": "59000000",
        "ratio": "0.25",
        "kind": "product",
    }
    kinds = [row["kind"] for row in rows]
    assert kinds == ["product", "product", "total", "other", "all", "weights"]


def test_the_rows_of_a_csv_add_up(pair: ModePair) -> None:
    flops = count_flops(build_pair(nn.Sequential(network(), nn.BatchNorm2d(8)), torch.zeros(2, 3, 32, 32)))
    rows = list(csv.DictReader(io.StringIO(render_report("tiny", pair, flops, "csv"))))
    for column in ("full_macs", "low_macs"):
        of = {kind: sum(int(row[column]) for row in rows if row["kind"] == kind) for kind in ("product", "other")}
        (total,) = (int(row[column]) for row in rows if row["kind"] == "total")
        (both,) = (int(row[column]) for row in rows if row["kind"] == "all")
        assert of["product"] == total > 0 and of["other"] == both - total > 0


def test_json(pair: ModePair) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads(render_report("tiny", pair, FLOPS, "json"), parse_constant=refuse)
    assert values["name"] == "tiny"
    assert values["flops"]["full_macs"] == 1_236_000_000 and values["flops"]["ratio"] == 309 / 1236
    assert values["flops"]["total_macs"] == {"low": 309_500_000, "full": 1_236_000_000}
    assert values["flops"]["layers"][1] == {
        "name": "body", "kind": "product", "full": "3×3", "low": "1×1", "full_macs": 236000000, "low_macs": 59000000,
        "kernels": {"low": "1×1", "full": "3×3"}, "macs": {"low": 59000000, "full": 236000000},
    }  # fmt: skip
    assert values["flops"]["free"] == {"aten::relu": "elementwise"}
    assert values["pair"]["low_input_shape"] == [2, 3, 17, 16]
    passes = {entry["name"]: entry for entry in values["pair"]["passes"]}
    assert [change["site"] for change in passes["pool_weights"]["changes"]] == ["body", "last"]
    assert values["rungs"] == {"low": values["pair"]}
    assert json.loads(json.dumps(report_dict("tiny", pair, FLOPS))) == values


def test_a_ladder_in_every_format(ladder: Ladder) -> None:
    """Of each mode its kernel, macs and share, under its name; what was done for each says of which it speaks."""
    lines = render_report("tiny", ladder, THREE).splitlines()
    said = summary_lines("tiny", ladder, THREE)
    assert lines[: len(said)] == said == [
        "tiny: 20.00 Mmacs full at 3×32×32, 1.10 Mmacs r4 at 3×8×8, 5.00 Mmacs r2 at 3×16×16, "
        f"r4 / full = 0.0550, r2 / full = 0.2500 {PUBLISHED}",
        "with norms and the rest, as fvcore counts them: 20.00 Mmacs full, 1.10 Mmacs r4, 5.50 Mmacs r2, "
        "r4 / full = 0.0550, r2 / full = 0.2750",
        "traced by fx",
        "r4: drop_maxpools: 1 × 2×2 stride 2×2 → dropped",
        "r4: pool_weights: 2 × 3×3 → 1×1",
        "r4: pool_weights: 1 left alone (stem: it reads the image)",
        "r2: drop_maxpools: 1 left alone (kept: not in drop_maxpools)",
        "r2: pool_weights: 3 left alone (kept: kernel_ratio is 1)",
        "note: r4: low-mode returns maps of 4×4 where full-mode returns 12×12; set restore_output=True to resize them",
        "note: r2: low-mode returns maps of 4×4 where full-mode returns 12×12; set restore_output=True to resize them",
        POINTS,
    ]  # fmt: skip
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines[len(said) + 1 :]]
    titles = ["layer", *(f"{mode} {what}" for what in ("kernel", "Mmacs") for mode in ("full", "r4", "r2"))]
    assert cells == [
        [*titles, "r4 / full", "r2 / full"],
        ["stem", "7×7", "7×7", "7×7", "10.00", "1.00", "4.00", "0.1000", "0.4000"],
        ["body", "5×5", "1×1", "3×3", "10.00", "0.10", "1.00", "0.0100", "0.1000"],
        ["total", "20.00", "1.10", "5.00", "0.0550", "0.2500"],
        ["all upsample", "0.00", "0.00", "0.50"],
        ["with norms and the rest", "20.00", "1.10", "5.50", "0.0550", "0.2750"],
    ]
    markdown = render_report("tiny", ladder, THREE, "markdown").splitlines()
    assert markdown[len(said) + 1] == f"| {' | '.join(cells[0])} |" and markdown[-1].endswith("| 0.0550 | 0.2750 |")
    rows = list(csv.DictReader(io.StringIO(render_report("tiny", ladder, THREE, "csv"))))
    assert rows[1] == {
        "layer": "body", "full_kernel": "5×5", "r4_kernel": "1×1", "r2_kernel": "3×3", "full_macs": "10000000",
        "r4_macs": "100000", "r2_macs": "1000000", "r4_ratio": "0.01", "r2_ratio": "0.1", "kind": "product",
    }  # fmt: skip
    values = json.loads(render_report("tiny", ladder, THREE, "json"))
    assert list(values) == ["name", "rungs", "flops"] and list(values["rungs"]) == ["r4", "r2"]
    assert [rung["low_input_shape"] for rung in values["rungs"].values()] == [[2, 3, 8, 8], [2, 3, 16, 16]]
    assert values["flops"]["macs"] == {"r4": 1_100_000, "r2": 5_000_000, "full": 20_000_000}


def test_the_cost_of_a_step(pair: ModePair) -> None:
    """Forward as counted, weights once; forward and backward by torch: three products, but no gradient of images."""
    step = step_cost(pair, FLOPS, 8)
    lines = summary_lines("tiny", pair, FLOPS, step)
    products = [33 * 32 * 8 * 3 * 49, 14 * 14 * 8 * 8 * 9, 12 * 12 * 8 * 8 * 9]
    low = [17 * 16 * 8 * 3 * 49, 15 * 14 * 8 * 8, 13 * 12 * 8 * 8]
    flops = {"full": 16 * (2 * products[0] + 3 * sum(products[1:])), "low": 16 * (2 * low[0] + 3 * sum(low[1:]))}
    assert dict(step.forward_macs) == {"low": 8 * 309_500_000 + 3_000_000, "full": 8 * 1_236_000_000 + 3_000_000}
    assert lines[3] == (
        "a step of 8 images, forward, work on weights included: 9,891.00 Mmacs full, 2,479.00 Mmacs low, "
        f"low / full = {2479 / 9891:.4f}"
    )
    assert dict(step.flops) == flops
    assert lines[4].startswith(
        "forward and backward of it, convolutions and matrix products by torch's FlopCounterMode: "
    )
    assert lines[4].endswith(f" Gflops low, low / full = {flops['low'] / flops['full']:.4f}")
    assert report_dict("tiny", pair, FLOPS, step)["step"]["batch_size"] == 8
    assert "step" not in report_dict("tiny", pair, FLOPS)


def test_a_step_that_torch_can_not_count_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Conv2d(4, 4, 3))
    pair = build_pair(model, torch.zeros(2, 3, 16, 16))
    step = step_cost(pair, count_flops(pair), 2)
    line = summary_lines("tiny", pair, count_flops(pair), step)[3]
    assert not step.flops and step.reason
    assert line == f"its backward is not counted: torch's FlopCounterMode failed: {step.reason}"


def test_an_unknown_format(pair: ModePair) -> None:
    with pytest.raises(
        ValueError, match=r"^format='yaml' is unknown; give 'table', 'markdown', 'json', 'csv' or 'html'$"
    ):
        render_report("tiny", pair, FLOPS, "yaml")  # type: ignore[arg-type]


# The command ---------------------------------------------------------------------------------------------------------

MODULE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes=7, in_chans=3):
        super().__init__(nn.Conv2d(in_chans, 4, 3), nn.Conv2d(4, num_classes, 3), nn.MaxPool2d(2))

def plain():
    return Net()

def needs(width):
    return Net(width)

def nothing():
    return None

class inner:
    net = Net(2)

number = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with models, in the current folder."""
    (tmp_path / "nets_of_a_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets_of_a_test", raising=False)
    return "nets_of_a_test"


def test_the_command_prints_the_report(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"input_size": "16x12", "format": "json", "num_classes": 5, "in_chans": 1}
    report(f"{nets}:Net", **options, pool_convs="0", drop_maxpools="2", batchnorm="share", rounding="floor")
    values = json.loads(capsys.readouterr().out)
    assert values["name"] == f"{nets}:Net"
    assert values["pair"]["input_shape"] == [2, 1, 16, 12]
    changes = {entry["name"]: [change["site"] for change in entry["changes"]] for entry in values["pair"]["passes"]}
    assert changes == {
        "drop_maxpools": ["2"], "set_strides": [], "pool_weights": ["0"], "adapt_heads": [], "resize_head": []
    }  # fmt: skip


def test_the_command_writes_the_report_with_a_step(
    nets: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "report.json"
    report(f"{nets}:Net", input_size="16", format="json", batch_size=5, out=path)
    assert capsys.readouterr().out == f"{path}\n"
    assert json.loads(path.read_text())["step"]["batch_size"] == 5
    with pytest.raises(ValueError, match="is a folder"):
        report(f"{nets}:Net", input_size="16", out=tmp_path)


def test_the_papers_preset_yields_to_options(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    def passes(**options: Any) -> dict[str, int]:
        report(f"{nets}:Net", input_size="16", format="json", preset="paper", **options)
        entries = json.loads(capsys.readouterr().out)["pair"]["passes"]
        return {entry["name"]: len(entry["changes"]) for entry in entries}

    assert passes() == {"drop_maxpools": 1, "set_strides": 0, "pool_weights": 1, "adapt_heads": 0, "resize_head": 0}
    assert passes(drop_maxpools="none", batchnorm="isolate") == {
        "drop_maxpools": 0, "set_strides": 0, "pool_weights": 1, "isolate_batchnorm": 0, "adapt_heads": 0,
        "resize_head": 0,
    }  # fmt: skip


@pytest.mark.parametrize("ladder", ["3,2", "3x10,2x6,1x3"])
def test_the_command_reports_a_ladder(nets: str, capsys: pytest.CaptureFixture[str], ladder: str) -> None:
    """Epochs, and full-mode, may stand in it as they do for ``train``; every other option is every low mode's."""
    report(f"{nets}:Net", input_size="24", format="json", ladder=ladder, drop_maxpools="2", pool_convs="0")
    values = json.loads(capsys.readouterr().out)
    assert list(values["flops"]["macs"]) == ["r3", "r2", "full"]
    changes = [[len(entry["changes"]) for entry in rung["passes"][:3]] for rung in values["rungs"].values()]
    assert changes == [[1, 0, 1], [1, 0, 1]]


def test_a_ladder_of_one_low_mode_is_a_pair(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for options in ({"ladder": "3,1"}, {"ratio": 3}):
        report(f"{nets}:Net", input_size="16", **options)
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] and "Mmacs low at 3×6×6" in found[0]


@pytest.mark.filterwarnings("error::lowmode_fx.NoEffectWarning")
def test_a_ladder_with_two_modes_that_are_one_says_so(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    report(f"{nets}:Net", input_size="16", ladder="2.1,2", kernel_ratio=1)
    assert "note: r2: the mode is r21/10 again: images of 8×8 and kernels of the same sizes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ladder": "4,2", "ratio": 3}, "--ratio 3 and --ladder 4,2 exclude each other; give one of them"),
        ({"ladder": "big"}, "--ladder has 'big', which is no ratio of at least 1; give ratios, as in 2x10,4/3x6,1x3"),
        ({"format": "yaml"}, "format='yaml' is unknown; give 'table', 'markdown', 'json', 'csv' or 'html'"),
        ({"preset": "article"}, "preset='article' is unknown; give 'paper'"),
        (
            {"ratio": 1},
            "ratio=1 leaves images as they are; give one above 1 for some side",
        ),
        (
            {"input_size": "16x"},
            "input_size='16x' is no size; give pixels, as 224, or height and width, as 192x256",
        ),
        ({"keep_convs": "stem"}, "keep_convs: 'stem' matches no convolution; near matches: 0, 1"),
    ],
)
def test_the_command_says_what_is_wrong(nets: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        report(f"{nets}:Net", **{"input_size": "16", **options})
    assert str(error.value).startswith(message)


# Models by name ------------------------------------------------------------------------------------------------------


def test_a_timm_model() -> None:
    model: Any = create_model("resnet18", num_classes=7, in_chans=1, image_size=32)
    assert type(model) is timm.models.ResNet and model.fc.out_features == 7 and model.conv1.in_channels == 1


def test_a_timm_model_that_must_know_its_image_size() -> None:
    model: Any = create_model("vit_tiny_patch16_224", image_size=32)
    assert model.patch_embed.img_size == (32, 32)


def test_a_torchvision_model() -> None:
    model: Any = create_model("torchvision:resnet18", num_classes=7)
    assert type(model).__module__ == "torchvision.models.resnet" and model.fc.out_features == 7


@pytest.mark.parametrize("name", ["torchvision:fcn_resnet50", "torchvision:resnet18", "resnet18"])
def test_nothing_is_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights are asked for")

    for target in ("torch.hub.load_state_dict_from_url", "torchvision.models._api.load_state_dict_from_url"):
        monkeypatch.setattr(target, download)
    assert isinstance(create_model(name), nn.Module)


def test_a_callable_gets_what_its_signature_takes(nets: str) -> None:
    assert create_model(f"{nets}:Net", num_classes=5, in_chans=1)[1].out_channels == 5  # type: ignore[index]
    assert create_model(f"{nets}:plain", num_classes=5, in_chans=1)[1].out_channels == 7  # type: ignore[index]
    assert create_model(f"{nets}:inner.net")[1].out_channels == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "model 'resnet81': timm has no such model; near matches: resnet18, "),
        ("torchvision:resnet81", "model 'resnet81': torchvision has no such model; near matches: resnet18, "),
        ("~~~~", "model '~~~~': timm has no such model; see timm.list_models(), or give package.module:callable"),
        ("torchvision:", "model 'torchvision:' names nothing after its colon; give torchvision:NAME"),
        (
            "no_such_package:net",
            "model no_such_package:net can't be imported (ModuleNotFoundError: No module named",
        ),
        (
            "nets_of_a_test:net",
            "model nets_of_a_test:net can't be imported (AttributeError: module",
        ),
        ("nets_of_a_test:number", "model nets_of_a_test:number is of type int; give a callable or a module"),
        (
            "nets_of_a_test:nothing",
            "model nets_of_a_test:nothing returned a value of type NoneType; give one that returns",
        ),
        pytest.param("nets_of_a_test:needs", "model nets_of_a_test:needs can't be built"),
        pytest.param(".nets_of_a_test:Net", "model .nets_of_a_test:Net can't be imported"),
        pytest.param(":Net", "model ':Net' names nothing before its colon; give package.module:callable"),
    ],
)
def test_a_model_that_cannot_be_made(nets: str, name: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        create_model(name)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_torchvisions_models_take_rgb_images() -> None:
    with pytest.raises(ValueError) as error:
        create_model("torchvision:resnet18", in_chans=1)
    assert str(error.value) == (
        "torchvision:resnet18 takes 3 input channels, not 1; give RGB images or use a timm model"
    )


def test_the_size_that_a_model_was_made_for() -> None:
    assert default_image_size(create_model("tf_efficientnetv2_b0")) == (192, 192)
    assert default_image_size(nn.Identity(), "torchvision:inception_v3") == (299, 299)
    assert default_image_size(nn.Identity(), "torchvision:resnet18") == (224, 224)


def test_a_part_of_a_model_is_reported() -> None:
    command = ["report", "test_resnet", "--input-size", "64", "--format", "json", "--submodule"]
    stem = CliRunner().invoke(app, [*command, "layer9"])
    assert "--submodule 'layer9' is no module of ResNet; near matches: layer" in str(stem.exception)
    part = CliRunner().invoke(app, ["report", "torchvision:fcn_resnet50", *command[2:], "backbone"])
    assert json.loads(part.output)["pair"]["model"] == "IntermediateLayerGetter"


def test_what_large_kernels_would_save() -> None:
    """In the words of the report and as data, by hand: an 8×8 map of 4 channels has 1×1, 9×9 and 3×3 kernels."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 9, padding=4, groups=4), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
    )
    full, kept = 64 * (12 + 4 * 81 + 16 * 9 + 4), 16 * (12 + 4 * 81 + 16 * 9 + 4)
    resized = 16 * (12 + 4 * 25 + 16 * 9 + 4)
    for options, expected in (
        ({"kernel_ratio": 1}, resized / full),
        ({"pool_convs": "large"}, resized / full),
        ({"kernel_ratio": 4}, 16 * (12 + 4 + 16 + 4) / full),  # smaller already: 9×9 → 3×3, less
    ):
        pair = build_pair(model, torch.zeros(2, 3, 8, 8), LowModeConfig(**options))
        flops = count_flops(pair)
        data = report_dict("mixed", pair, flops)["large_kernels"]
        assert (data["counts"], data["share"]) == ({"9×9": 1}, 64 * 4 * 81 / full)
        if "pool_convs" in options or options == {"kernel_ratio": 1}:
            assert data["ratios"] == {"low": expected} and data["kept"] == {"low": kept / full}
        else:
            assert data["ratios"] == flops.ratios
    assert flops.full_macs == full and kept > resized
    line = next(line for line in summary_lines("mixed", pair, flops) if line.startswith("large kernels"))
    assert line == (
        f"large kernels: 1 × 9×9, 66.9% of full-mode's macs; resized with the images low / full = {flops.ratio:.4f}, "
        f"kept low / full = {16 * (12 + 4 * 81 + 16 + 4) / full:.4f}"
    )
    none = build_pair(nn.Sequential(nn.Conv2d(3, 4, 7, padding=3), nn.Conv2d(4, 4, 3)), torch.zeros(2, 3, 16, 16))
    assert "large_kernels" not in report_dict("none", none, count_flops(none))
