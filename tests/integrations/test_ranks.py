"""Two ranks under each trainer, started with torchrun, over gloo on the CPU: one process's weights, one mode a step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["lightning", "accelerate", "transformers", "timm"])
def test_two_ranks_train_in_one_mode(trainer: str, tmp_path: Path) -> None:
    pytest.importorskip(trainer, reason=f"{trainer} is not installed: pip install 'lowmode-fx[{trainer}]'")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(SUPPORT / "trainer_worker.py"), trainer, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert f"{trainer}: ok on 2 ranks" in done.stdout
