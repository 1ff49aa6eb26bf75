"""``train --weights`` and ``--pretrained``: a run starts with exactly these tensors, and reads them once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from commands import Run
from safetensors.torch import load_file, save_file
from timm.models import _builder
from torch import Tensor, nn
from torchvision.models import _api
from training import tiny_model

from lowmode_fx.cli import train_run
from lowmode_fx.cli.pretrained import pretrained_statistics
from lowmode_fx.train import DataSplits, RunResult, load_data

MODEL = "training:tiny_model"
QUICK = ("--data", "digits", "--image-size", "8", "--no-compile", "--device", "cpu", "--pool-convs", "all")
HEAD = ("9.weight", "9.bias")
State = dict[str, Tensor]


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[State, DataSplits]]:
    """What each run would begin with; none takes a step."""
    found: list[tuple[State, DataSplits]] = []

    def train(net: nn.Module, splits: DataSplits, *_: Any, **__: Any) -> RunResult:
        found.append(({name: tensor.clone() for name, tensor in net.state_dict().items()}, splits))
        return RunResult("", (), 0.0)

    monkeypatch.setattr(train_run, "train", train)
    return found


def trained(classes: int = 10) -> State:
    """A network whose every tensor differs from that of a new run."""
    torch.manual_seed(5)
    state = tiny_model(classes, seed=7).state_dict()
    return {name: torch.rand_like(each) if each.is_floating_point() else each + 3 for name, each in state.items()}


WRITTEN: dict[str, Callable[[State, Path], None]] = {
    "plain.pt": torch.save,
    "flat.safetensors": save_file,
    "timm.pth.tar": lambda state, path: torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, path),
    "ddp.pt": lambda state, path: torch.save(
        {"model": {f"module._orig_mod.{name}": state[name] for name in state}}, path
    ),
    "own.pt": lambda state, path: torch.save({"theirs": state, "epoch": torch.tensor(3)}, path),
    "old.pt": lambda state, path: torch.save({n: t for n, t in state.items() if "num_batches" not in n}, path),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_starts_with_exactly_these_tensors(
    run: Run, tmp_path: Path, starts: list[tuple[State, DataSplits]], name: str
) -> None:
    state = trained()
    WRITTEN[name](state, tmp_path / name)
    outcome = run("train", MODEL, *QUICK, "--weights", name)
    assert outcome.status == 0, outcome.error
    assert f"weights: {name}" in outcome.out.splitlines()
    wanted = {**state, **{f"{place}.num_batches_tracked": torch.tensor(0) for place in (1, 4) if name == "old.pt"}}
    assert equal(starts[0][0], wanted)


def test_a_head_of_other_classes_is_left_out_and_told(
    run: Run, tmp_path: Path, starts: list[tuple[State, DataSplits]]
) -> None:
    torch.save(trained(1000), tmp_path / "w.pt")
    assert run("train", MODEL, *QUICK).status == 0
    outcome = run("train", MODEL, *QUICK, "--weights", "w.pt")
    assert "weights: w.pt; left out, as it is of other classes: 9.weight, 9.bias" in outcome.out.splitlines()
    new, started = (state for state, _ in starts)
    body = {name: tensor for name, tensor in trained(1000).items() if name not in HEAD}
    assert equal(started, {**body, **{name: new[name] for name in HEAD}})


def test_a_run_goes_on_from_its_checkpoint_without_the_file(run: Run, tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "w.pt")
    drawn = (*QUICK, "--p", "0.5", "--milestones", "1")
    options = (*drawn, "--weights", "w.pt", "--precise-bn", "0")
    assert run("train", MODEL, *options, "--epochs", "3", "--out", "whole").status == 0
    assert run("train", MODEL, *options, "--epochs", "2", "--out", "parts").status == 0
    (tmp_path / "w.pt").unlink()
    resumed = run("train", MODEL, *options, "--epochs", "3", "--out", "parts", "--resume")
    assert resumed.status == 0, resumed.error
    files = [tmp_path / name / "checkpoint/model.safetensors" for name in ("whole", "parts")]
    assert equal(*map(load_file, files))
    other = run("train", MODEL, *drawn, "--epochs", "3", "--out", "parts", "--resume")
    assert "cannot resume 'parts': --weights is None, the run there has 'w.pt'; give the same again" in other.error
    nothing = run("train", MODEL, *options, "--out", "new", "--resume")
    assert "--weights 'w.pt' does not exist; give a state_dict by torch.save" in nothing.error


def test_from_another_run(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert run("train", MODEL, *QUICK, "--epochs", "1", "--out", "before").status == 0
    starts = request.getfixturevalue("starts")
    assert run("train", MODEL, *QUICK, "--weights", "before", "--out", "after").status == 0
    assert equal(starts[0][0], load_file(tmp_path / "before/checkpoint/model.safetensors"))


REFUSED = {
    "two sources": (("--weights", "w.pt", "--pretrained"), "--weights 'w.pt' excludes --pretrained; give one of them"),
    "no file": (("--weights", "nowhere.pt"), "--weights 'nowhere.pt' does not exist; give a state_dict's file, or a "),
    "no run": (("--weights", "empty"), "--weights 'empty' is a folder without a checkpoint; give a state_dict by "),
    "other tensors": (("--weights", "wide.pt"), "--weights 'wide.pt' is of another model: shape of '9.weight' is "),
    "other layers": (("--weights", "more.pt"), "--weights 'more.pt' is of another model: it has an unknown '10.weig"),
    "too few": (
        ("--weights", "less.pt"),
        "--weights 'less.pt' is of another model: it lacks '3.weight'; give weights ",
    ),
    "no weights": (("--weights", "none.pt"), "--weights 'none.pt' holds no state dict; give a state_dict by torch."),
    "two of them": (("--weights", "two.pt"), "--weights 'two.pt' holds 2 state dicts, and none is named state_dict, "),
    "no tensors": (
        ("--weights", "text.pt"),
        "--weights 'text.pt' is text, no file of weights; give a state_dict by torch.save, .safetensors, or a ",
    ),
    "code": (
        ("--weights", "module.pt"),
        "--weights 'module.pt' holds an object of Python (torch.nn.modules.container.Sequential), whose code is not "
        "run; save weights alone: torch.save(model.state_dict(), path)\n",
    ),
    "no argument": (("--pretrained",), "--pretrained finds no argument pretrained of training:tiny_model; give it "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_weights_are_refused_in_one_line(run: Run, tmp_path: Path, name: str) -> None:
    state = trained()
    files: dict[str, Any] = {
        "w.pt": state,
        "wide.pt": {**state, "9.weight": torch.zeros(10, 17)},
        "more.pt": {**state, "10.weight": torch.zeros(1)},
        "less.pt": {name: tensor for name, tensor in state.items() if name != "3.weight"},
        "none.pt": {"epoch": 3},
        "two.pt": {"a": state, "b": state},
        "module.pt": tiny_model(),
    }
    for file, saved in files.items():
        torch.save(saved, tmp_path / file)
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "empty").mkdir()
    options, message = REFUSED[name]
    outcome = run("train", MODEL, *QUICK, *options)
    assert outcome.status == 2 and outcome.error.startswith(f"error: {message}"), outcome.error
    assert outcome.error.count("\n") == 1 and not (tmp_path / "runs").exists()


def published(name: str) -> State:
    torch.manual_seed(3)
    return timm.create_model(name).state_dict()


@pytest.mark.parametrize("channels", [3, 1])
def test_timms_weights(
    run: Run, starts: list[tuple[State, DataSplits]], monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    """What timm would load from its hub, in place of the hub: the body's bits, and the statistics of its images."""
    state = published("test_resnet")
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(state))
    options = ("--data", "digits", "--device", "cpu", "--no-compile", "--in-chans", str(channels))
    outcome = run("train", "test_resnet", *options, "--pretrained")
    assert outcome.status == 0, outcome.error
    said = (
        "pretrained weights: test_resnet.r160_in1k of timm; the head of 1000 classes is left out, the one of 10 starts"
    )
    assert any(line.startswith(said) for line in outcome.out.splitlines())
    started, splits = starts[0]
    own = load_data("digits", in_chans=channels)
    if channels == 3:
        assert (splits.mean, splits.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) != (own.mean, own.std)
    else:
        assert (splits.mean, splits.std) == (own.mean, own.std)
        assert "the first convolution's are made for 1 channels of those for 3" in outcome.out
    first = "conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"
    apart = {"fc.weight", "fc.bias"} | ({first} if channels == 1 else set())
    assert apart <= state.keys()
    assert equal(*({name: tensor for name, tensor in each.items() if name not in apart} for each in (started, state)))
    assert started["fc.weight"].shape[0] == 10
    if channels == 1:
        assert torch.allclose(started[first], state[first].sum(1, keepdim=True))


def test_without_network_one_line_says_what_to_do(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    outcome = run("train", "test_resnet", "--data", "digits", "--device", "cpu", "--pretrained")
    assert outcome.status == 2
    assert re.fullmatch(
        r"error: --pretrained can't load timm's weights of 'test_resnet' \(.*offline.*\); look at the network, or load "
        r"them elsewhere and give --weights FILE\n",
        outcome.error,
    )


def test_a_model_without_published_weights(run: Run) -> None:
    outcome = run("train", "botnet50ts_256", "--data", "digits", "--device", "cpu", "--pretrained")
    assert outcome.error == (
        "error: --pretrained finds no weights of 'botnet50ts_256' at timm; leave it out, or give --weights FILE\n"
    )


def test_torchvisions_weights(
    run: Run, starts: list[tuple[State, DataSplits]], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    state = torchvision.models.squeezenet1_1().state_dict()
    monkeypatch.setattr(_api.WeightsEnum, "get_state_dict", lambda *_, **__: dict(state))
    options = ("--data", "digits", "--device", "cpu", "--no-compile", "--pretrained")
    outcome = run("train", "torchvision:squeezenet1_1", *options)
    assert outcome.status == 0, outcome.error
    assert "pretrained weights: SqueezeNet1_1_Weights.IMAGENET1K_V1 of torchvision; the head of 1000" in outcome.out
    started, splits = starts[0]
    assert splits.mean == (0.485, 0.456, 0.406)
    bodies = [{name: each[name] for name in each if not name.startswith("classifier")} for each in (started, state)]
    assert len(bodies[0]) == len(state) - 2 and equal(*bodies)

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error [Errno 101] Network is unreachable>")

    monkeypatch.setattr(_api.WeightsEnum, "get_state_dict", unreachable)
    refused = run("train", "torchvision:squeezenet1_1", *options)
    assert refused.error.startswith(
        "error: --pretrained can't load torchvision's weights of 'squeezenet1_1' (<urlopen error [Errno 101] Network "
    )


def test_images_of_torchvisions_inception_are_normalised_as_it_does_with_weights() -> None:
    """``transform_input``, which it sets with weights, takes images with ImageNet's statistics to these."""
    model = nn.Module()
    model.transform_input = False
    found = pretrained_statistics("torchvision:inception_v3", model)
    assert found is not None
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    net = torchvision.models.Inception3(num_classes=2, aux_logits=False, transform_input=True, init_weights=False)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours = (image - torch.tensor(found[0]).view(1, 3, 1, 1)) / torch.tensor(found[1]).view(1, 3, 1, 1)
    assert torch.allclose(net._transform_input((image - mean) / std), ours, atol=1e-6)


def with_weights(num_classes: int = 10, pretrained: bool = False) -> nn.Module:
    model = tiny_model(num_classes)
    if pretrained:
        model.load_state_dict(trained(num_classes))
    return model


def test_a_callable_is_asked_for_its_own(
    run: Run, starts: list[tuple[State, DataSplits]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    name = f"{Path(__file__).stem}:with_weights"
    assert run("train", name, *QUICK, "--pretrained").status == 0
    assert equal(starts[0][0], trained())
