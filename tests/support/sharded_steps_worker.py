"""One rank of a job that ``test_train_ranks.py`` starts: says which of the named optimizers step on sharded weights."""

from __future__ import annotations

import sys

import torch
from torch import nn

from lowmode_fx.train import TrainSettings
from lowmode_fx.train.ranks import Ranks, joined
from lowmode_fx.train.sharded_steps import check_sharded_steps
from lowmode_fx.train.sharding import shard
from passes.errors import OptionError


def main() -> None:
    torch.set_num_threads(1)
    with joined():
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(45, 24))
        shard(model, model, torch.device("cpu"), Ranks.now().size)
        state = torch.get_rng_state()
        for name in sys.argv[1:]:
            told = "right"
            try:
                settings = TrainSettings(device="cpu", optimizer=name, weight_decay=0.01, lr=1e-6, fsdp=True)
                check_sharded_steps(model.parameters(), settings)
            except OptionError as error:
                told = str(error)
            if Ranks.now().is_first:
                print(f"{name}: {told}")
        assert torch.equal(state, torch.get_rng_state())


if __name__ == "__main__":
    main()
