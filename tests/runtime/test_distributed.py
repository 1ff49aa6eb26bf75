"""Several processes, one run: started as a user starts them, with torchrun, over gloo on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from distributed_worker import SCHEDULE, STEPS

WORKER = Path(__file__).parents[1] / "support" / "distributed_worker.py"


def launch(ranks: int, checks: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the named checks of ``distributed_worker.py`` on ``ranks`` processes."""
    arguments = ["--standalone", f"--nproc-per-node={ranks}", str(WORKER), checks, str(folder)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISTRIBUTED_DEBUG": "OFF"},
    )


def succeed(ranks: int, checks: str, folder: Path) -> None:
    run = launch(ranks, checks, folder)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    for name in checks.split(","):
        assert f"{name}: ok on {ranks} ranks" in run.stdout


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    succeed(2, "ddp,gradients,fsdp,layers,compiled_layers,norms,agreement", tmp_path)


@pytest.mark.slow
def test_four_ranks_go_on_where_two_stopped(tmp_path: Path) -> None:
    succeed(2, "save", tmp_path)
    succeed(4, "resume,gradients,fsdp,layers,compiled_layers", tmp_path)
    modes = json.loads((tmp_path / "modes.json").read_text())
    assert modes == [SCHEDULE.mode(step, 0).value for step in range(STEPS)]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2])
def test_a_rank_that_dies_ends_the_job_and_says_why(ranks: int, tmp_path: Path) -> None:
    run = launch(ranks, "death", tmp_path)
    assert run.returncode != 0
    assert "RuntimeError: the data of rank 1 is gone" in run.stderr
    assert "death: ok" not in run.stdout
