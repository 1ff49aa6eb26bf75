"""A model that was wrapped, as Accelerate's ``prepare`` does on several ranks, before its modes were built."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lowmode_fx import LowModeConfig, build_ladder, build_pair


@pytest.fixture
def group() -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_its_keys_are_told() -> None:
    model = DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)))
    images = torch.zeros(2, 3, 16, 16)
    told = (
        r"^model is in DistributedDataParallel already, .* build of the model itself, then wrap or prepare the LowMode"
    )
    with pytest.warns(UserWarning, match=told) as seen:
        build_pair(model, images)
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match=told) as seen:
        build_ladder(model, images, [LowModeConfig(ratio=2)])
    assert seen[0].filename == __file__
