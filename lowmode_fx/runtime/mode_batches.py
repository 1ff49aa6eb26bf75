"""Batches of indices that carry the mode of their step through sharding, skipping and resuming."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from torch.utils.data import BatchSampler, Sampler

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.batch_consumers import Consumers
from lowmode_fx.runtime.epoch_batches import epoch_batches
from lowmode_fx.runtime.look_ahead import LookAhead
from lowmode_fx.runtime.mode_list import ModeList

if TYPE_CHECKING:
    from lowmode_fx.runtime.model import LowModeModel

__all__ = ["ModeBatchSampler", "ModeList"]


class ModeBatchSampler(BatchSampler):
    """Batches of ``sampler``'s indices, each with the mode of the step that it is for.

    ``ModeBatchSampler.for_net(net)`` makes the class for a net. Steps are counted from ``net.step`` and ``net.epoch``
    at the start of an iteration, so a resumed run, and each rank, agrees. If another sampler gives each rank every n-th
    batch, or one rank joins n batches for all (Accelerate's), n consecutive batches have one mode, and there are as
    many full rounds of them as that needs: the first images are repeated, or, with ``drop_last``, the rest is dropped.
    Skipped batches are not counted. A stateful loader resumes in the middle of
    an epoch. Of a net with a ``batch_multiplier`` a low step's batches have more images, and an epoch fewer batches.

    Args:
        sampler: Gives the indices of an epoch.
        batch_size: Indices of a batch in full-mode.
        drop_last: As in ``DataLoader``.
        batches: Makes the batches instead of ``sampler``, ``batch_size`` and ``drop_last``; their sizes stay.
    """

    #: Set on a class that ``for_net`` makes.
    net: ClassVar[LowModeModel]
    accumulation: ClassVar[int] = 1

    def __init__(
        self,
        sampler: Sampler[int] | Iterable[int],
        batch_size: int | None = 1,
        drop_last: bool = False,
        batches: Iterable[list[int]] | None = None,
    ) -> None:
        # Without super().__init__, which refuses a custom sampler without a batch size.
        self.batches = batches
        self.sampler, self.drop_last = sampler, drop_last
        self.batch_size = batch_size  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "sampler" and hasattr(self.batches, "sampler"):  # replaces theirs
            self.batches.sampler = value  # type: ignore[union-attr]

    @classmethod
    def for_net(cls, net: LowModeModel, accumulation: int = 1) -> type[ModeBatchSampler]:
        """Make the class for a net, which libraries can instantiate again like a ``BatchSampler``.

        Args:
            net: The net whose steps the batches are for.
            accumulation: Batches per optimizer step.

        Returns:
            The class.

        Raises:
            ValueError: ``accumulation`` is below 1.
        """
        if accumulation < 1:
            raise ValueError(
                f"accumulation={accumulation} is too small; give the number of batches per optimizer step, 1 or more"
            )
        names = {"net": net, "accumulation": accumulation, "__doc__": cls.__doc__, "__module__": cls.__module__}
        return type(cls.__name__, (cls,), names)

    def __iter__(self) -> Iterator[list[int]]:
        return _ModeBatches(self)

    def __len__(self) -> int:
        if not self.grows:
            return len(self.indices())  # type: ignore[arg-type]
        assert self.batch_size is not None
        options: dict[str, Any] = {"step": self.net.step, "epoch": self.net.epoch, "accumulation": self.accumulation}
        length = len(self.sampler)  # type: ignore[arg-type]
        return sum(1 for _ in epoch_batches(self.net, self.batch_size, length, drop_last=self.drop_last, **options))

    @property
    def grows(self) -> bool:
        """Whether batches are made here, of as many images as the mode of each wants."""
        return self.net.batches_grow and self.batches is None and self.batch_size is not None

    def indices(self) -> Iterable[list[int]]:
        """The batches without modes, newly made for each iteration."""
        if self.batches is not None:
            return self.batches
        kind: type[BatchSampler] = BatchSampler
        if type(self.sampler).__module__.startswith("torchdata."):
            from torchdata.stateful_dataloader import sampler  # its iterators have state dicts

            kind = sampler.BatchSampler
        return kind(self.sampler, self.batch_size, self.drop_last)


class _ModeBatches(Iterator[list[int]]):
    """One iteration of a ``ModeBatchSampler``, which can be resumed."""

    def __init__(self, sampler: ModeBatchSampler) -> None:
        self._sampler = sampler
        self._first, self._epoch = sampler.net.step, sampler.net.epoch
        self._indices = LookAhead(iter(sampler.sampler if sampler.grows else sampler.indices()))
        self._number = self._skipped = self._taken = 0
        self._consumers: Consumers | None = None
        self._padding: list[int] = []
        self._joined = 0  # images of the batches that are joined with the next one
        self._ended = False

    def __next__(self) -> list[int]:
        if self._consumers is None:
            self._consumers = Consumers(self._sampler)
        net, accumulation = self._sampler.net, self._sampler.accumulation
        turn = max(self._number // self._consumers.shards - self._consumers.skipped - self._skipped, 0)
        mode = net.mode_at(self._first + turn // accumulation, self._epoch)
        try:
            indices = self._next_of(mode) if self._sampler.grows else self._next_indices()
        except StopIteration:
            if turn:
                net.epoch_has(math.ceil(turn / accumulation))
            raise
        self._number += 1
        return ModeList.of(indices, mode)

    def _next_of(self, mode: Mode) -> list[int]:
        """As many of the next indices as a batch in ``mode`` has; at the end what is left, or nothing."""
        assert self._sampler.batch_size is not None
        size = self._sampler.net.batch_size_in(mode, self._sampler.batch_size)
        indices = list(islice(self._indices, size))
        if not indices or (len(indices) < size and self._sampler.drop_last):
            raise StopIteration
        self._taken += len(indices)
        return indices

    def _next_indices(self) -> list[int]:
        """The next batch; at the end, if each shard needs one, the first batches are repeated to fill the round."""
        assert self._consumers is not None
        shards, size = self._consumers.shards, self._sampler.batch_size
        if self._consumers.joins and (size is None or self._sampler.drop_last):
            return self._next_to_join(shards)
        completes = self._consumers.evens and not self._sampler.drop_last and size is not None
        indices = None if self._ended else next(self._indices, None)
        if not completes:
            if indices is None:
                raise StopIteration
            return list(indices)
        assert size is not None
        if indices is None:
            self._ended = True
            if self._number % shards == 0:
                raise StopIteration
        indices = list(indices or ())
        if self._number < shards and not self._ended:
            self._padding += indices
        while len(indices) < size and self._padding:
            taken = self._padding[: size - len(indices)]
            indices += taken
            self._padding = self._padding[len(taken) :] + taken
        return indices

    def _next_to_join(self, shards: int) -> list[int]:
        """The next batch of some that one rank joins and splits: what is left at the end is made to split evenly.

        Whoever joins would make it so with images of the first step, which may have another size.
        """
        first = self._number % shards == 0
        if self._sampler.drop_last and first and len(self._indices.look(shards)) < shards:
            raise StopIteration
        given = next(self._indices, None)
        joined = 0 if first else self._joined
        if given is None and joined % shards == 0:
            raise StopIteration
        indices = list(given or ())
        if self._number < shards:
            self._padding = (self._padding + indices)[:shards]
        lacking = -(joined + len(indices)) % shards
        if given is None or (self._number % shards == shards - 1 and not self._indices.look(1)):
            indices += [self._padding[place % len(self._padding)] for place in range(lacking)]
        self._joined = joined + len(indices)
        return indices

    def state_dict(self) -> dict[str, Any]:
        """The number of batches so far, what may fill the last, and the state of the sampler below if it has one."""
        state = {"batches": self._number, "images": self._taken, "indices": self._indices.state_dict()}
        return {**state, "padding": list(self._padding), "joined": self._joined}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume there; the net has loaded its own state, and its step is that of the next batch."""
        if state["indices"] is not None:
            self._indices.load_state_dict(state["indices"])
        else:
            for _ in range(state["images" if self._sampler.grows else "batches"]):
                next(self._indices, None)
        self._taken = state.get("images", 0)
        self._padding, self._joined = list(state.get("padding", ())), state.get("joined", 0)
        self._number = self._skipped = state["batches"]
        self._first, self._epoch = self._sampler.net.step, self._sampler.net.epoch
