"""Downsample in the loader's workers (§3.2): a low step's images are a quarter of the bytes at r = 2.

The batch sampler calls the net's schedule, so the mode of each batch is known before a worker fetches it; the worker
downsamples with the same function as the device.
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
from lowmode_fx.runtime.nets import as_net

__all__ = ["ModeBatchSampler", "host_loader"]


class _ModeDataset(Dataset[Any]):
    """The data set, which passes the mode on from a batch's indices to its samples."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: list[int]) -> list[Any]:
        if not isinstance(indices, ModeList):
            raise ValueError(
                "a batch has lost the mode of its step: a sampler around host_loader's has rebuilt the batch; let the "
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
    """Collates a batch, then downsamples its images if its mode is low. Picklable, for workers that are spawned."""

    def __init__(
        self,
        collate: Callable[[list[Any]], Any],
        downsamplers: Mapping[Mode, Callable[[Tensor], Tensor]],
        images: ImagePlaces,
    ) -> None:
        self.collate, self.downsamplers, self.images = collate, downsamplers, images

    def __call__(self, samples: list[Any]) -> Any:
        assert isinstance(samples, ModeList), "the loader's data set must pass the mode on"
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
    """Make a ``DataLoader`` whose workers downsample the images of low steps.

    Use it with a net that has ``downsample_on="host"``, and call ``net.set_epoch`` before each iteration. A batch is
    images alone; ``(inputs, targets)``, where ``inputs`` is what the net is called with; or everything that the net is
    called with, as a tuple or a mapping of keywords. In a low batch the images are ``(N, C, *⌈S/r⌉)``, the result of
    the rung's ``downsample``: bit for bit the device's result if that runs uncompiled on a CPU, and equal within
    rounding otherwise.

    Lightning and Accelerate shard this loader like any other; the mode is that of the rank's own step.

    Args:
        dataset: A map-style data set.
        net: The net whose steps the batches are for.
        batch_size: As in ``DataLoader``.
        shuffle: As in ``DataLoader``.
        sampler: As in ``DataLoader``.
        batch_sampler: As in ``DataLoader``.
        drop_last: As in ``DataLoader``.
        accumulation: Batches per optimizer step.
        images: Where a batch holds its float images ``(N, C, *S)``: a position in a tuple or a key, or several. By
            default they are found as in the example that the modes were built for.
        collate_fn: As in ``DataLoader``.
        loader: What makes the loader, such as torchdata's ``StatefulDataLoader``, which resumes in the middle of an
            epoch (give it torchdata's samplers for a shuffled order).
        **options: More arguments of ``DataLoader``.

    Returns:
        The loader, with the mode of each batch chosen by the net's schedule.

    Raises:
        ValueError: The net downsamples on the device, or a batch sampler is given beside a sampler or for a net whose
            batches grow.
        TypeError: ``net`` is none, or the data set is iterable, so its batches have no numbers.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"dataset {type(dataset).__name__} is iterable, so workers can't know a batch's step; give "
            "one with __getitem__ and __len__, or let the net downsample (downsample_on='device')"
        )
    if as_net(net).downsample_on != "host":
        raise ValueError("net downsamples on the device too, so images would shrink twice; give downsample_on='host'")
    if batch_sampler is not None and (sampler is not None or shuffle or drop_last or batch_size != 1):
        raise ValueError("batch_sampler excludes other arguments; leave out batch_size, shuffle, sampler and drop_last")
    if batch_sampler is None and sampler is None:
        data: Any = dataset
        sampler = RandomSampler(data, generator=options.get("generator")) if shuffle else SequentialSampler(data)
    if batch_sampler is not None and net.batches_grow:
        raise ValueError(
            "batch_sampler makes batches of its own size, but the net has a batch_multiplier; leave one out"
        )
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
    # These are small: the ladder itself would be sent to every worker.
    return {rung.mode: downsampler(rung.config) for rung in net.ladder.rungs}
