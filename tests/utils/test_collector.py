"""Builds without collections of cycles: the collector is left as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from tiny import IMAGES, Tiny
from torch import Tensor

from lowmode_fx import LowModeConfig, TraceError, build_ladder, build_pair
from lowmode_fx.utils.collector import no_collections


@pytest.fixture(autouse=True)
def collector_as_before() -> Iterator[None]:
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_also_after_an_error(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with no_collections():
        assert not gc.isenabled()
        with no_collections():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == enabled
    with pytest.raises(KeyError), no_collections():
        raise KeyError
    assert gc.isenabled() == enabled


class Watching(Tiny):
    """Its forward fails where the collector is on."""

    def forward(self, x: Tensor) -> Tensor:
        assert not gc.isenabled(), "the collector is on"
        return super().forward(x)


def test_it_is_off_while_pairs_and_ladders_are_built() -> None:
    gc.enable()
    assert build_pair(Watching(), torch.zeros(IMAGES)).report.front_end_failures == ()
    assert gc.isenabled()
    ladder = build_ladder(Watching(), torch.zeros(IMAGES), [LowModeConfig(ratio=4), LowModeConfig()])
    assert ladder.rungs[0].report.front_end_failures == ()
    assert gc.isenabled()


def test_it_is_on_again_after_a_refusal() -> None:
    gc.enable()
    with pytest.raises(TraceError):
        build_pair(Tiny(), torch.zeros(2, 5, 16, 16))
    assert gc.isenabled()
