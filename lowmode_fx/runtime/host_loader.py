"""Downsample in the loader's workers (§3.2): a low step's images travel as a quarter of the bytes.

The batch sampler asks the net's own schedule, so each batch knows its step's mode before a worker fetches it; the
worker downsamples with the very function that the device path runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from lowmode_fx.lowering.ladder import downsampler
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.image_places import BatchPlace, ImagePlaces
from lowmode_fx.runtime.mode_batches import ModeBatchSampler, ModeList
from lowmode_fx.runtime.model import LowModeModel

__all__ = ["ModeBatchSampler", "host_loader"]


class _ModeDataset(Dataset[Any]):
    """The data set, handing the mode on from a batch's indices to its samples."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: list[int]) -> list[Any]:
        if not isinstance(indices, ModeList):
            raise ValueError(
                "a batch has lost the mode of its step, for a sampler around host_loader's has made it anew; let the "
                "net downsample (downsample_on='device')"
            )
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(list(indices)) if fetch else [self.dataset[index] for index in indices]
        return ModeList.of(samples, indices.mode)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


class _DownsamplingCollate:
    """Collate, then downsample the images of a low batch. Picklable, for workers that are spawned."""

    def __init__(
        self,
        collate: Callable[[list[Any]], Any],
        downsamplers: Mapping[Mode, Callable[[Tensor], Tensor]],
        images: ImagePlaces,
    ) -> None:
        self.collate, self.downsamplers, self.images = collate, downsamplers, images

    def __call__(self, samples: list[Any]) -> Any:
        assert isinstance(samples, ModeList), "the loader's data set hands the mode on"
        batch = self.collate(list(samples))
        return self.images.map(batch, self.downsamplers.get(samples.mode))


def host_loader(
    dataset: Dataset[Any],
    net: LowModeModel,
    batch_size: int = 1,
    shuffle: bool = False,
    *,
    sampler: Sampler[int] | None = None,
    batch_sampler: Iterable[Sequence[int]] | None = None,
    drop_last: bool = False,
    accumulation: int = 1,
    images: BatchPlace | Iterable[BatchPlace] | None = None,
    collate_fn: Callable[[list[Any]], Any] = default_collate,
    loader: Callable[..., DataLoader[Any]] = DataLoader,
    **options: Any,
) -> DataLoader[Any]:
    """A ``DataLoader`` whose workers downsample the images of low steps, for a net with ``downsample_on="host"``.

    Arguments are the loader's own, and these: accumulation, the batches of each optimizer step; images, where a batch
    holds its float images ``(N, C, *S)``: a place in a tuple or a key, or several. By default a batch is images alone;
    ``(inputs, targets)``, inputs being what the net is called with; or all that it is called with, a tuple or a mapping
    of keywords, and its images are those of the example that the modes were built for. A low batch holds
    ``(N, C, *⌈S/r⌉)`` there, what its rung's ``downsample`` gives: bit for bit the device path's where that runs
    uncompiled on a CPU, and to within rounding elsewhere. Call ``net.set_epoch`` before each iteration.

    Lightning and Accelerate shard it as they shard any; the mode is that of the rank's own step. loader: what makes the
    loader, such as torchdata's ``StatefulDataLoader``, whose state goes on in the middle of an epoch (give it
    torchdata's samplers for an order of its own).

    Raises ``ValueError`` where the net downsamples on the device, or both a sampler and a batch sampler are given;
    ``TypeError`` for an iterable dataset, whose batches nobody can number.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{type(dataset).__name__} is an iterable dataset, whose workers can't know a batch's step; give "
            "one with __getitem__ and __len__, or let the net downsample (downsample_on='device')"
        )
    if net.downsample_on != "host":
        raise ValueError("the net downsamples on the device, and would do it twice; make it with downsample_on='host'")
    if batch_sampler is not None and (sampler is not None or shuffle or drop_last or batch_size != 1):
        raise ValueError(
            "batch_sampler makes the batches by itself; leave out batch_size, shuffle, sampler and drop_last"
        )
    if batch_sampler is None and sampler is None:
        data: Any = dataset
        sampler = RandomSampler(data, generator=options.get("generator")) if shuffle else SequentialSampler(data)
    kind = ModeBatchSampler.for_net(net, accumulation)
    if batch_sampler is None:
        assert sampler is not None
        modes = kind(sampler, batch_size, drop_last)
    else:
        given: Any = batch_sampler
        of_sampler = [getattr(given, name, None) for name in ("sampler", "batch_size", "drop_last")]
        modes = kind(of_sampler[0] or given, of_sampler[1], bool(of_sampler[2]), given)
    return loader(
        _ModeDataset(dataset),
        batch_sampler=modes,
        collate_fn=_DownsamplingCollate(collate_fn, _downsamplers(net), ImagePlaces(net.ladder.inputs, images)),
        **options,
    )


def _downsamplers(net: LowModeModel) -> dict[Mode, Callable[[Tensor], Tensor]]:
    # The ladder itself would travel to every worker.
    return {rung.mode: downsampler(rung.config) for rung in net.ladder.rungs}
