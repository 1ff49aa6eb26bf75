"""What the loaders and samplers around a batch sampler do with its batches: shard, skip, join or even them."""

from __future__ import annotations

import sys
from typing import Any


class Consumers:
    """What the samplers and loaders around a sampler do with its batches.

    ``shards``: each rank takes one of this many consecutive batches. ``evens``: whether each must get a full one.
    ``joins``: whether one rank joins them to split the images. ``skipped``: how many of a rank's own are dropped first.
    """

    def __init__(self, sampler: Any) -> None:
        self.shards, self.skipped = 1, 0
        self.evens = self.joins = False
        frame = sys._getframe(2)  # whoever asks the iteration that makes this for its next batch
        inner = sampler
        while frame is not None:
            consumer = frame.f_locals.get("self")
            if consumer is not None and _consumes(consumer, inner):
                processes = _processes(consumer)
                if sampler.grows and (processes or getattr(consumer, "skip_batches", 0)):
                    raise ValueError(
                        f"batch_multiplier={sampler.net.batch_multiplier!r} does not work in a "
                        f"{type(consumer).__name__}, which shards or skips batches of one size; use "
                        "DeviceLoader(net=net, rank=, world_size=) or a DistributedSampler without it"
                    )
                splits, dispatches = getattr(consumer, "split_batches", False), hasattr(consumer, "base_dataloader")
                if processes and not splits:
                    self.shards *= processes
                    self.joins = self.joins or (dispatches and processes > 1)
                if processes > 1 and (dispatches or not splits):
                    self.evens = getattr(consumer, "even_batches", True)
                self.skipped += getattr(consumer, "skip_batches", 0)
                inner = consumer
            frame = frame.f_back  # type: ignore[assignment]


def _consumes(consumer: Any, inner: Any) -> bool:
    return any(getattr(consumer, name, None) is inner for name in ("batch_sampler", "base_dataloader"))


def _processes(consumer: Any) -> int:
    """How many ranks share what ``consumer`` gets: 0 unless it shards batches, or one rank dispatches them to all."""
    if hasattr(consumer, "base_dataloader"):  # Accelerate's loaders, of which one dispatches
        dispatches = hasattr(consumer, "_fetch_batches") and not getattr(consumer, "submesh_tp", None)
        return int(consumer.state.num_processes) if dispatches else 0
    return int(getattr(consumer, "num_processes", 0))
