"""cuDNN chooses by trial during a run that asks for it, and as before afterwards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.backends import cudnn
from training import quick_run, quick_settings, tiny_model

from lowmode_fx.train import TrainSettings
from lowmode_fx.train import loop as loop_module
from lowmode_fx.train.cudnn import benchmarking
from lowmode_fx.train.names import STATE_FILE

pytestmark = pytest.mark.usefixtures("one_thread")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def flags_come_back() -> Iterator[None]:
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, False  # whatever a test before has left
    yield
    cudnn.benchmark, cudnn.deterministic = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_the_choice_lasts_as_long_as_the_run(before: bool, wanted: bool) -> None:
    cudnn.benchmark = before
    said: list[str] = []
    with pytest.raises(KeyError), benchmarking(wanted, CUDA, said.append):
        assert cudnn.benchmark == (wanted or before)
        raise KeyError
    assert cudnn.benchmark == before and not said


def test_without_a_gpu_it_does_nothing_and_says_so() -> None:
    said: list[str] = []
    with benchmarking(True, CPU, said.append):
        assert not cudnn.benchmark
    assert said == ["note: cudnn_benchmark=True does nothing here: the run is on cpu"]


@pytest.mark.parametrize(
    "ask", [lambda: torch.use_deterministic_algorithms(True), lambda: setattr(cudnn, "deterministic", True)]
)
def test_deterministic_algorithms_beside_it_are_refused(ask: Any) -> None:
    ask()
    message = (
        "cudnn_benchmark=True may choose other algorithms in each run, and deterministic ones are asked for; leave out "
        "one of the two"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"), benchmarking(True, CUDA, print):
        pass
    assert not cudnn.benchmark
    with benchmarking(False, CUDA, print):
        pass


def test_a_run_sets_it_and_has_it_among_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def evaluate(*arguments: Any) -> float:
        seen.append(cudnn.benchmark)
        return 0.5

    def on_a_gpu(wanted: bool, device: torch.device, say: Any) -> Any:
        return benchmarking(wanted, CUDA, say)

    monkeypatch.setattr(loop_module, "evaluate", evaluate)
    monkeypatch.setattr(loop_module, "benchmarking", on_a_gpu)
    quick_run(quick_settings(epochs=1, milestones=(), cudnn_benchmark=True), tmp_path, tiny_model())
    assert seen == [True] and not cudnn.benchmark
    assert json.loads((tmp_path / "summary.json").read_text())["settings"]["cudnn_benchmark"] is True


def test_a_run_from_before_the_setting_goes_on_with_it_or_without(tmp_path: Path) -> None:
    old = tmp_path / "old"
    quick_run(quick_settings(epochs=1, milestones=()), old, tiny_model())
    state = torch.load(old / "checkpoint" / STATE_FILE, weights_only=True)
    assert "cudnn_benchmark" not in str(state["identity"]), "as in older versions' checkpoints"
    saved = {name: value for name, value in quick_settings().to_dict().items() if name != "cudnn_benchmark"}
    assert TrainSettings.from_dict(saved) == quick_settings()
    for wanted in (False, True):
        folder = shutil.copytree(old, tmp_path / str(wanted))
        settings = quick_settings(epochs=2, milestones=(), cudnn_benchmark=wanted)
        _, result = quick_run(settings, folder, tiny_model(), resume=True)
        assert len(result.records) == 2


def test_the_setting_is_a_flag() -> None:
    with pytest.raises(TypeError, match="cudnn_benchmark=1 is of type int; give True or False"):
        quick_settings(cudnn_benchmark=1)
