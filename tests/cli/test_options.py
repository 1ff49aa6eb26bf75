"""The options that commands share, and how the command line spells them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any

import pytest
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

from lowmode_fx import LowModeConfig
from lowmode_fx.cli import app, main
from lowmode_fx.cli.options import (
    LOW_MODE,
    image_sides,
    low_mode_config,
    low_mode_options,
    names_or_set,
)
from lowmode_fx.cli.spelling import command_spelling
from passes.errors import OptionError
from passes.spelling import NO_VALUE, setting, spelled

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
    assert str(error.value) == (f"input_size={text!r} is no size; give pixels, as 224, or height and width, as 192x256")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ("dense", "dense"),
        ("layer4", ("layer4",)),
        ("layer3.*, layer4.*.conv2", ("layer3.*", "layer4.*.conv2")),
        ("dense,layer4", ("dense", "layer4")),
    ],
)
def test_names_or_set(text: str | None, value: Any) -> None:
    assert names_or_set(text, ("dense", "all"), "pool_convs") == value


@pytest.mark.parametrize("text", [",", "a,,b", " , ", "a,"])
def test_a_list_with_an_empty_place_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="has an empty place between its commas; give a,b"):
        names_or_set(text, ("dense",), "keep_convs")


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


@pytest.mark.parametrize("command", ["report", "draw", "train", "probe", "tune"])
def test_every_option_has_a_help_text(command: str) -> None:
    group: Any = get_command(app)
    silent = [parameter.name for parameter in group.commands[command].params if not parameter.help]
    assert silent == []


@pytest.mark.parametrize("option", ["--input-size", "--image-size"])
def test_the_size_of_images_has_the_name_that_train_gives_it_too(option: str) -> None:
    found = CliRunner().invoke(app, ["report", FIXED, option, "16", "--adapt-head", "--format", "json"])
    assert found.exit_code == 0 and json.loads(found.stdout)["pair"]["input_shape"] == [2, 3, 16, 16]


def test_strides_are_spelled_by_glob() -> None:
    config = low_mode_config("", strides="conv1=1, layer2.*=2x1")
    assert config == LowModeConfig(strides={"conv1": 1, "layer2.*": (2, 1)})


@pytest.mark.parametrize("text", ["conv1", "=1", "conv1=", "conv1=0", "conv1=1x", "conv1=-1"])
def test_what_is_no_stride(text: str) -> None:
    told = f"^strides has '{text}', which is no glob with its stride; give globs with strides, as conv1=1 or conv1=1x2$"
    with pytest.raises(ValueError, match=told):
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

    assert "set --adapt-head to resize the map" in run()
    assert run("--ratio", "1").endswith("side, with --whole-images to pool the kernels of full-size images alone\n")
    assert "at 3×8×8" in run("--adapt-head") and "low at 3×16×16" in run("--whole-images")


def spelled_for(*parameters: str) -> Callable[[str, Any], str]:
    return command_spelling(parameters)


def test_arguments_are_spelled_as_options_of_the_command() -> None:
    spell = spelled_for(
        "ratio", "adapt_head", "drop_maxpools", "milestones", "measure_every", "compile", "whole_images"
    )
    assert spell("ratio", "4/3") == "--ratio 4/3" and spell("ratio", (1, "4/3")) == "--ratio 1x4/3"
    assert spell("adapt_head", True) == "--adapt-head" and spell("compile", False) == "--no-compile"
    assert spell("downsample_input", False) == "--whole-images"
    assert spell("drop_maxpools", NO_VALUE) == "--drop-maxpools"
    assert spell("drop_maxpools", "stem") == "--drop-maxpools 'stem'"
    assert spell("milestones[1]", 0) == "--milestones 0" and spell("every", 1) == "--measure-every 1"
    # What a command has no option for stays what it is in Python.
    assert spell("restore_output", True) == "restore_output=True" and spelled_for()("ratio", 2) == "ratio=2"
    assert spelled_for("ratios")("downsample_input", False) == "--ratios 1"


def test_messages_speak_the_language_of_who_called() -> None:
    error = OptionError("ratio", 1, "leaves images as they are", "give one above 1")
    assert str(error) == "ratio=1 leaves images as they are; give one above 1"
    with spelled(spelled_for("ratio")):
        assert str(error) == "--ratio 1 leaves images as they are; give one above 1"
        assert setting("ratio", 2) == "--ratio 2"
    assert setting("ratio", 2) == "ratio=2"
    with pytest.raises(TypeError) as kind:
        LowModeConfig(ratio=None)  # type: ignore[arg-type]
    assert isinstance(kind.value, OptionError) and kind.value.parameter == "ratio"


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
