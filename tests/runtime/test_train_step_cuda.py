"""Captured steps on a CUDA device: the bits of the uncaptured ones, whatever happens between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lowmode_fx import UncapturedWarning
from tests.runtime.test_train_step import CHANGES, IMAGES, OPTIONS, SGD, STEPS, Net, Run, batches, build, same

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as deterministic algorithms want it
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(model: Net | None = None, compile: bool = False, make: Any = SGD, **options: Any) -> Run:
    net = build(model)
    net.to("cuda")
    if compile:
        net = type(net)(net.ladder, net.schedule)
    return Run(make, net=net, **options)


def data(count: int = 2 * STEPS, size: int = IMAGES[0]) -> list[tuple[Tensor, Tensor]]:
    return [(images.cuda(), labels.cuda()) for images, labels in batches(count, size)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_replays_leave_the_same_bits(options: dict[str, Any]) -> None:
    def rate(run: Run, place: int) -> None:
        run.optimizer.param_groups[0]["lr"] = 2.0 ** -(4 + place // 7)

    captured = on_gpu(**options).train(data(), rate)
    assert captured.step.uncaptured is None
    assert captured.step.captures > 0
    assert same(captured, on_gpu(capture=False, **options).train(data(), rate))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("option", ["fused", "capturable"])
def test_adaptive_optimizers_are_captured(kind: type[torch.optim.Optimizer], option: str) -> None:
    make = partial(kind, lr=torch.tensor(2**-7, device="cuda"), **{option: True})
    captured = on_gpu(make=make).train(data())
    assert captured.step.optimizer_outside is None
    assert same(captured, on_gpu(make=make, capture=False).train(data()))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_steps_counts_from_the_next(change: Callable[[Run], None]) -> None:
    def between(run: Run, place: int) -> None:
        if place == STEPS:
            change(run)

    captured = on_gpu().train(data(), between)
    assert captured.step.uncaptured is None
    assert same(captured, on_gpu(capture=False).train(data(), between))


def test_compiled_kernels_are_captured() -> None:
    captured = on_gpu(compile=True).train(data())
    assert captured.step.captures == 2
    assert same(captured, on_gpu(compile=True, capture=False).train(data()))


def test_batches_may_come_from_the_host() -> None:
    assert same(on_gpu().train(batches()), on_gpu(capture=False).train(batches()))


def test_a_ragged_batch_runs_uncaptured_and_right() -> None:
    mixed = [*data(10), *data(1, 3), *data(10)]
    assert same(on_gpu().train(mixed), on_gpu(capture=False).train(mixed))


def test_all_graphs_share_one_pool() -> None:
    """Eight shapes of batches, captured one after the other, keep about what the largest keeps."""
    run = on_gpu()
    run.train(data(8))
    torch.cuda.synchronize()
    first = torch.cuda.memory_reserved()
    for size in range(4, 12):
        run.train(data(8, size))
    assert torch.cuda.memory_reserved() < 3 * first


def test_a_capture_that_fails_leaves_training_as_it_was() -> None:
    """Draws, memory and streams are as if it had never been tried, and another step is captured after it."""

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        if torch.cuda.is_current_stream_capturing():
            loss.item()
        return loss

    with pytest.warns(UncapturedWarning, match="can't be recorded"):
        failed = on_gpu(criterion=criterion).train(data())
    assert failed.step.captures == 0
    assert same(failed, on_gpu(criterion=criterion, capture=False).train(data()))
    torch.cuda.empty_cache()
    captured = on_gpu().train(data())
    assert captured.step.captures > 0
    assert same(captured, on_gpu(capture=False).train(data()))


def test_a_graph_that_is_kept_does_not_spoil_a_capture() -> None:
    def keep(run: Run, place: int) -> None:
        images, labels = data(1)[0]
        kept.append(torch.nn.functional.cross_entropy(run.net.ladder.model(images), labels))

    kept: list[Tensor] = []
    captured = on_gpu().train(data(), keep)
    assert captured.step.uncaptured is None
    assert captured.step.captures > 0
