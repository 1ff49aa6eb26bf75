"""The options that commands share, and how the command line spells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

from lowmode_fx import LowModeConfig
from lowmode_fx.cli import app, main
from lowmode_fx.cli.options import (
    LOW_MODE,
    image_sides,
    low_mode_config,
    low_mode_options,
    names_or_set,
    spelled_as_options,
)

FIXED = "test_options:fixed_size"


def fixed_size() -> Any:
    """A network for 16×16 images alone: its map is flattened."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(1024, 2))


@pytest.mark.parametrize(
    ("text", "sides"),
    [("224", (224, 224)), ("192x256", (192, 256)), ("192X256", (192, 256)), ("192×256", (192, 256)), ("1", (1, 1))],
)
def test_image_sides(text: str, sides: tuple[int, int]) -> None:
    assert image_sides(text) == sides


@pytest.mark.parametrize("text", ["", "x", "0", "224x", "-224", "2.5", "1x2x3", "224 px", "192x0"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError) as error:
        image_sides(text)
    assert str(error.value) == (f"input size {text!r} is no size; give pixels, as 224, or height and width, as 192x256")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ("dense", "dense"),
        ("layer4", ("layer4",)),
        ("layer3.*, layer4.*.conv2", ("layer3.*", "layer4.*.conv2")),
        ("dense,layer4", ("dense", "layer4")),
        (" , ", ()),
    ],
)
def test_names_or_set(text: str | None, value: Any) -> None:
    assert names_or_set(text, ("dense", "all")) == value


def test_only_the_options_that_were_given_count() -> None:
    base = LowModeConfig(ratio=3, drop_maxpools="stem")
    config = low_mode_config(base, ratio=None, kernel_ratio=1, drop_maxpools=None, keep_convs=(), adapt_head=False)
    assert config == LowModeConfig(ratio=3, drop_maxpools="stem", kernel_ratio=1)
    with pytest.raises(ValueError, match=r"^rounding='up' is unknown; give 'ceil', 'floor' or 'cover'$"):
        low_mode_config(base, rounding="up")


def test_every_choice_of_a_low_mode_is_an_option() -> None:
    spelled = {"downsample_input": "whole_images"}
    assert list(LOW_MODE) == [name for field in fields(LowModeConfig) if (name := spelled.get(field.name, field.name))]


@pytest.mark.parametrize("command", ["report", "draw", "train", "probe", "tune"])
def test_commands_offer_the_options_that_mean_something_to_them(command: str) -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, "--help"]).output
    offered = {name for name in LOW_MODE if f"--{name.replace('_', '-')} " in shown}
    assert (
        offered
        == {
            "report": set(LOW_MODE),
            "draw": set(LOW_MODE),
            "train": set(LOW_MODE) - {"restore_output"},
            "probe": set(LOW_MODE) - {"restore_output"},
            "tune": {"batchnorm", "input_method", "keep_convs", "adapt_head"},
        }[command]
    )


def test_strides_are_spelled_by_glob() -> None:
    config = low_mode_config("", strides="conv1=1, layer2.*=2x1")
    assert config == LowModeConfig(strides={"conv1": 1, "layer2.*": (2, 1)})


@pytest.mark.parametrize("text", ["conv1", "=1", "conv1=", "conv1=0", "conv1=1x", "conv1=-1"])
def test_what_is_no_stride(text: str) -> None:
    with pytest.raises(ValueError, match=f"^--strides has '{text}'; give globs with strides, as conv1=1 or conv1=1x2$"):
        low_mode_config("", strides=text)


def test_whole_images_pool_kernels_alone() -> None:
    assert low_mode_config("", whole_images=True) == LowModeConfig(downsample_input=False)
    assert low_mode_config("paper", whole_images=None) == LowModeConfig.paper()


def test_the_command_line_names_its_own_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["lowmode-fx", "report", FIXED, "--input-size", "16", *options])
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == (2 if "--adapt-head" not in options and "--whole-images" not in options else 0)
        return "".join(capsys.readouterr())

    assert "give --adapt-head to resize the map" in run()
    assert run("--ratio", "1").endswith("on some side, or, to pool kernels on whole images, --whole-images\n")
    assert "at 3×8×8" in run("--adapt-head") and "low at 3×16×16" in run("--whole-images")


def test_arguments_become_options() -> None:
    text = "set adapt_head=True to resize it, or use kernel_ratio=1, restore_output=True, submodule="
    spelled = "give --adapt-head to resize it, or use --kernel-ratio 1, --restore-output, --submodule"
    assert spelled_as_options(text) == spelled
    assert spelled_as_options("drop_maxpools: 'a' matches no max pool") == "--drop-maxpools: 'a' matches no max pool"
    assert spelled_as_options("kernel_ratio is 0; it is no ratio") == "--kernel-ratio is 0; it is no ratio"
    assert spelled_as_options("drop_maxpools='stem' found none") == "--drop-maxpools 'stem' found none"
    assert spelled_as_options("ratio='4/3' is one; give ratio=(1, '4/3')") == "--ratio 4/3 is one; give --ratio 1x4/3"
    assert spelled_as_options("lr_gamma=2 is out of range; give x=1") == "--lr-gamma 2 is out of range; give x=1"
    assert spelled_as_options("milestones[1]=0 is too small") == "--milestones 0 is too small"
    assert spelled_as_options("every=1 is too small") == "--measure-every 1 is too small"


def test_ratios_are_given_as_text() -> None:
    config = low_mode_config("", ratio="1x4/3", kernel_ratio="1.5")
    assert (config.ratio, config.kernel_ratio) == ((1, Fraction(4, 3)), Fraction(3, 2))


def test_commands_take_their_arguments_in_order() -> None:
    def command(model: str, low: Mapping[str, Any], size: int = 1) -> None:
        seen.append((model, dict(low), size))

    seen: list[Any] = []
    decorated = low_mode_options("ratio")(command)
    decorated("net", ratio=3, size=2)
    decorated("net")
    assert seen == [("net", {"ratio": 3}, 2), ("net", {"ratio": None}, 1)]
    with pytest.raises(TypeError, match="too many positional arguments"):
        decorated("net", 2)
