"""One rank of a run that ``test_train_ranks.py`` starts: ``train_worker.py FOLDER [resume] [signal=N] [kill=N]``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from lowmode_fx import BernoulliSchedule, LowModeModel, build_pair
from lowmode_fx.train import RunFolder, TrainSettings, load_data, train
from lowmode_fx.train.ranks import Ranks, joined


class Network(nn.Module):
    """Small, without norms over a batch, with dropout where each rank draws for itself."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.drop, self.head = nn.Dropout(drop), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.body(images).mean((2, 3))))


def main() -> None:
    folder, *words = sys.argv[1:]
    options = dict(word.split("=") for word in words if "=" in word)
    torch.set_num_threads(1)
    with joined():
        ranks = Ranks.now()
        torch.manual_seed(0)
        model = Network(float(options.get("drop", 0)))
        pair = build_pair(model, torch.zeros(2, 3, 16, 16))
        net = LowModeModel(pair, BernoulliSchedule(p=0.5, seed=1), compile=False)
        forwards = 0

        def count(module: nn.Module, args: object) -> None:
            nonlocal forwards
            forwards += module.training
            # Warming up runs each mode once.
            if ranks.rank == ranks.size - 1 and forwards - 2 == int(options.get("signal", -9)):
                os.kill(os.getpid(), signal.SIGTERM)
            if ranks.rank == ranks.size - 1 and forwards - 2 == int(options.get("kill", -9)):
                os.kill(os.getpid(), signal.SIGKILL)

        model.body.register_forward_pre_hook(count)
        clip = float(options["clip"]) if "clip" in options else None
        settings = TrainSettings(
            epochs=3,
            batch_size=240,
            lr=0.05,
            device="cpu",
            compile=False,
            seed=0,
            fsdp="fsdp" in words,
            clip_grad_norm=clip,
        )
        run_folder = RunFolder(Path(folder))
        result = train(net, load_data("digits", 16), settings, run_folder, resume="resume" in words, quiet=True)
        if ranks.is_first:
            print(f"step {net.step} interrupted {result.interrupted}")


if __name__ == "__main__":
    main()
