"""``train`` on several ranks, as ``torchrun`` starts them: one process's run, one writer, signals, resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

SUPPORT = Path(__file__).parents[1] / "support"
#: Of an epoch of 1,437 images.
STEPS = 5


def run(ranks: int, folder: Path, *words: str, status: int = 0) -> str:
    return start(ranks, "train_worker.py", str(folder), *words, status=status)


def start(ranks: int, worker: str, *words: str, status: int = 0) -> str:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(SUPPORT / worker), *words],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode == 0) == (status == 0), done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoint" / "model.safetensors")


def metrics(folder: Path) -> list[list[str]]:
    names, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [[row[names.index(name)] for name in ("epoch", "val_accuracy", "low_steps")] for row in rows]


def assert_bits(ours: Path, theirs: Path) -> None:
    expected = weights(theirs)
    assert all(torch.equal(value, expected[name]) for name, value in weights(ours).items())
    assert metrics(ours) == metrics(theirs)


@pytest.mark.parametrize(
    "words",
    [(), *(pytest.param(each, marks=pytest.mark.slow) for each in [("fsdp",), ("clip=0.1",), ("fsdp", "clip=0.1")])],
    ids=["DDP", "FSDP2", "clipped DDP", "clipped FSDP2"],
)
def test_two_ranks_train_as_one_process_does(words: tuple[str, ...], tmp_path: Path) -> None:
    told = run(2, tmp_path / "two", *words)
    alike = [word for word in words if word != "fsdp"]
    assert told == run(1, tmp_path / "one", *alike) and f"step {3 * STEPS} interrupted 0" in told
    alone = weights(tmp_path / "one")
    assert list(weights(tmp_path / "two")) == list(alone)
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-5)
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["ranks"] == 2


def test_optimizers_that_need_whole_weights_are_refused_with_shards() -> None:
    """muon orthogonalises each shard by itself, and adafactor holds rows and columns that no shard has."""
    problem = "needs whole weights on each rank, and fsdp=True shards them"
    told = start(2, "sharded_steps_worker.py", "sgd", "adamw", "lamb", "lion", "muon", "adafactor")
    refused = [
        f"{name}: optimizer={name!r} {problem}; leave out one of the two, or give another, such as sgd or adamw"
        for name in ("muon", "adafactor")
    ]
    assert told.splitlines() == [*(f"{name}: right" for name in ("sgd", "adamw", "lamb", "lion")), *refused]


@pytest.mark.slow
def test_sharded_ranks_go_on_on_another_number(tmp_path: Path) -> None:
    run(1, tmp_path / "one")
    alone = weights(tmp_path / "one")
    run(2, tmp_path / "stopped", "fsdp", f"signal={STEPS + 2}")
    assert f"step {3 * STEPS} interrupted 0" in run(1, tmp_path / "stopped", "resume")
    run(1, tmp_path / "begun", f"signal={STEPS + 2}")
    assert f"step {3 * STEPS} interrupted 0" in run(2, tmp_path / "begun", "fsdp", "resume")
    for folder in ("stopped", "begun"):
        for name, value in weights(tmp_path / folder).items():
            torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_at_one_step_and_they_go_on_to_the_same_bits(tmp_path: Path) -> None:
    run(2, tmp_path / "whole", "drop=0.5")
    told = run(2, tmp_path / "stopped", "drop=0.5", f"signal={STEPS + 2}")
    assert "interrupted 15" in told and f"step {3 * STEPS}" not in told
    told = run(2, tmp_path / "stopped", "drop=0.5", "resume")
    assert f"step {3 * STEPS} interrupted 0" in told
    assert_bits(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_another_number_of_ranks_goes_on(tmp_path: Path) -> None:
    run(2, tmp_path / "run", f"signal={STEPS + 2}")
    assert f"step {3 * STEPS} interrupted 0" in run(1, tmp_path / "run", "resume")
    run(1, tmp_path / "one")
    alone = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_killed_ranks_go_on_to_the_same_bits(tmp_path: Path) -> None:
    run(2, tmp_path / "whole", "drop=0.5")
    for step in range(1, 3 * STEPS, 3):
        folder = tmp_path / f"killed-{step}"
        run(2, folder, "drop=0.5", f"kill={step}", status=1)
        assert f"step {3 * STEPS} interrupted 0" in run(2, folder, "drop=0.5", "resume")
        assert_bits(folder, tmp_path / "whole")


def test_a_batch_that_ranks_cant_share_is_reported(tmp_path: Path) -> None:
    from lowmode_fx.train.ranks import Ranks

    with pytest.raises(ValueError, match="batch size 125 can't be shared by 2 ranks; give a multiple of 2"):
        Ranks(0, 2).share(125)
    assert Ranks(0, 2).share(250) == 125
