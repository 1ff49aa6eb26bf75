"""Other optimizers by name, and an average of the weights: both go into checkpoints; a plain run stays itself."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train_checkpoint import interrupted_run
from torch import nn
from training import digits, quick_run, quick_settings, tiny_model

from lowmode_fx.train import CheckpointError, TrainSettings
from lowmode_fx.train.ema import WeightAverage
from lowmode_fx.train.evaluate import evaluate
from lowmode_fx.train.optimizer import check_optimizer, make_optimizer
from passes.errors import OptionError

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.mark.parametrize("changes", [{"optimizer": "adamw", "lr": 0.005}, {"ema": 0.9}])
def test_a_run_that_is_interrupted_ends_with_the_same_bits(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(epochs=2, **changes)
    result = interrupted_run(settings, tmp_path, monkeypatch)
    assert result.records[-1].train_loss < result.records[0].train_loss


def test_the_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    settings = quick_settings(epochs=2, ema=0.9)
    net, result = quick_run(settings, tmp_path / "run")
    plain, _ = quick_run(quick_settings(epochs=2), tmp_path / "plain")
    for name, value in net.state_dict().items():  # the training itself is the same
        assert torch.equal(value, plain.state_dict()[name])
    kept = load_file(tmp_path / "run" / "ema.safetensors")
    averaged = tiny_model()
    averaged.load_state_dict(kept, strict=True)
    assert evaluate(averaged, digits(), settings, CPU) == result.final_accuracy
    assert any(not torch.equal(kept[name], value) for name, value in net.state_dict().items())
    assert not (tmp_path / "plain" / "ema.safetensors").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["settings"]["ema"] == 0.9


def test_a_full_disk_is_named_and_the_average_that_was_there_kept(tmp_path: Path) -> None:
    path = tmp_path / "ema.safetensors"
    path.write_bytes(b"before")
    average = WeightAverage(nn.Linear(100, 100), 0.5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            average.write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_the_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(model, 0.5), 0.0
    for step in range(6):
        with torch.no_grad():
            model.weight.fill_(float(step))
        decay = min(0.5, 1 - step ** (-2 / 3)) if step else 0.0
        expected = decay * expected + (1 - decay) * step
        average.update()
        assert average.model.get_parameter("weight").item() == pytest.approx(expected)


def test_sgd_is_torchs_own_and_others_leave_norms_undecayed() -> None:
    model = tiny_model()
    sgd = make_optimizer(model, TrainSettings(nesterov=True), CPU)
    assert type(sgd) is torch.optim.SGD and len(sgd.param_groups) == 1 and sgd.param_groups[0]["nesterov"]
    adam = make_optimizer(model, TrainSettings(optimizer="adamw", weight_decay=0.1, lr=0.01), CPU)
    decays = {group["weight_decay"]: sum(p.dim() for p in group["params"]) for group in adam.param_groups}
    assert set(decays) == {0.0, 0.1} and adam.param_groups[0]["lr"] == 0.01


def test_what_was_saved_before_there_were_others_resumes(tmp_path: Path) -> None:
    assert not {"optimizer", "ema"} & set(quick_settings().trajectory())
    quick_run(quick_settings(epochs=1), tmp_path / "run")
    with pytest.raises(CheckpointError, match="optimizer is 'adamw', the run there has 'sgd'"):
        quick_run(quick_settings(epochs=2, optimizer="adamw"), tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", ["adamv", "adahessian", ""])
def test_an_unknown_optimizer_is_refused_with_near_matches(name: str) -> None:
    with pytest.raises(OptionError, match="is unknown; give sgd or one of timm's; near matches: "):
        check_optimizer(name)


def test_settings_at_odds() -> None:
    with pytest.raises(OptionError, match="nesterov=True is of SGD alone"):
        TrainSettings(optimizer="adamw", nesterov=True)
    with pytest.raises(OptionError, match=r"ema=1\.0 is out of range"):
        TrainSettings(ema=1.0)
    for name, value in (("ema", 0.9), ("precise_bn", 100)):
        with pytest.raises(OptionError, match=f"{name}={value} needs whole weights on each rank, and fsdp=True shards"):
            TrainSettings(**{"fsdp": True, name: value})
