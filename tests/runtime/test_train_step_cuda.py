"""What only CUDA graphs can show of captured steps: memory, kernels, and graphs of autograd's on other streams.

What holds for the recorder too is tested beside it, by ``graphs`` in test_train_step.py and other files.
"""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lowmode_fx import LadderSchedule, LowModeConfig, LowModeModel, build_ladder
from tests.runtime.runs import GraphKind, Net, Run, batches, build, same

on_cuda = pytest.mark.parametrize("graphs", ["cuda"], indirect=True)


@on_cuda
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("option", ["fused", "capturable"])
def test_adaptive_optimizers_are_captured(graphs: GraphKind, kind: type[torch.optim.Optimizer], option: str) -> None:
    make = partial(kind, lr=torch.tensor(2**-7, device=graphs.device), **{option: True})
    captured = graphs.captured(make).train(graphs.batches())
    assert captured.step.optimizer_outside is None
    assert captured.step.captures == 2
    assert same(captured, graphs.loop(make).train(graphs.batches()))


@on_cuda
def test_compiled_kernels_are_captured(graphs: GraphKind) -> None:
    def compiled() -> LowModeModel:
        net = build()
        return LowModeModel(net.ladder, net.schedule)

    captured = graphs.captured(net=compiled()).train(graphs.batches())
    assert captured.step.captures == 2
    assert same(captured, graphs.loop(net=compiled()).train(graphs.batches()))


@on_cuda
def test_batches_may_come_from_the_host(graphs: GraphKind) -> None:
    captured = graphs.captured().train(batches())
    assert captured.recorder.replays > 0
    assert same(captured, graphs.loop().train(batches()))


@on_cuda
def test_a_graph_that_is_kept_does_not_spoil_a_capture(graphs: GraphKind) -> None:
    def keep(run: Run, place: int) -> None:
        images, labels = graphs.batches(1)[0]
        kept.append(F.cross_entropy(run.net.ladder.model(images), labels))

    kept: list[Tensor] = []
    captured = graphs.captured().train(graphs.batches(), keep)
    assert captured.step.uncaptured is None
    assert captured.step.captures > 0


def test_all_modes_share_one_pool(graphs: GraphKind) -> None:
    """Four modes, each at its size of images, keep little more than full-mode keeps. The recorder captures the same."""
    size = (256, 3, 64, 64) if graphs.device.type == "cuda" else (2, 3, 12, 12)
    data = [(torch.randn(size, device=graphs.device), torch.randint(0, 5, size[:1], device=graphs.device))] * 4
    configs = [LowModeConfig(ratio=ratio, kernel_ratio=1) for ratio in (4, 2, 4 / 3)]
    ladder = build_ladder(Net(), torch.zeros(2, *size[1:]), configs)
    net = LowModeModel(ladder, LadderSchedule(epochs=(1, 1, 1, 1)), compile=False)
    run, held = graphs.captured(net=net), reserved()
    kept = []
    for epoch in (3, 2, 1, 0):  # full-mode first
        net.set_epoch(epoch)
        run.train(data)
        assert str(net.last_mode) == str(net.modes[epoch])
        kept.append(reserved() - held)
    assert run.step.uncaptured is None
    assert run.step.captures == run.recorder.captures == 4
    assert run.recorder.replays == 4 * 2
    if graphs.device.type == "cuda":
        assert kept[0] > 100 * 2**20, "activations, not what is rounded up, decide"
        assert kept[-1] < 1.3 * kept[0]


def reserved() -> int:
    """Bytes that captured graphs, weights and the like hold on the GPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()
