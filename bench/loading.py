"""Images per second that are ready for a step: ``DeviceLoader`` and other loaders of the same images.

python -m bench.loading --small      # only images of 32×32, batches of 125, on one CPU core (a minute)
python -m bench.loading              # 224×224, also 224×224, batches of 64

The images are random bytes, shuffled in each epoch, cropped from a padded image, half of them flipped, normalised to
float32. The other loaders: a gather with an index for every pixel, whose crops are drawn on the host; torch's
``DataLoader`` with torchvision's transforms, image by image, in the same process, so that all use one core; and, on a
GPU, the same set on the host, copied ahead of use.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_times, save, summary
from lowmode_fx import Augmentation, DeviceLoader
from lowmode_fx.loading.draws import epoch_order, generator_for
from lowmode_fx.train.batches import train_batches
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.splits import DataSplits

OURS, GATHER, PER_IMAGE, COPIED = (
    "DeviceLoader",
    "a gather of pixels",
    "DataLoader, torchvision",
    "from the host, copied",
)
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
#: Side of the images, number of images, batch size.
CASES = {"32×32": (32, 5_000, 125), "224×224": (224, 320, 64)}


class ImageByImage(Dataset[tuple[Tensor, Tensor]]):
    """One image at a time, by torchvision."""

    def __init__(self, images: Tensor, labels: Tensor, shift: int) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(images.shape[-1], padding=shift),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def gathered(images: Tensor, labels: Tensor, batch_size: int, shift: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Each batch by one gather of its pixels from the padded images, with an index for every pixel."""
    device, (_, channels, height, width) = images.device, images.shape
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (MEAN, STD))
    channel = torch.arange(channels, device=device)[None, :, None, None]
    for step, indices in enumerate(epoch_order(len(images), 0, 0).split(batch_size)):
        generator, count = generator_for(0, 0, step, 1), len(indices)
        corners = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
        flips = torch.randint(0, 2, (count, 1), generator=generator).bool()
        columns = torch.arange(width).expand(count, width)
        columns = (torch.where(flips, width - 1 - columns, columns) + corners[1]).to(device)[:, None, None, :]
        rows = (torch.arange(height) + corners[0]).to(device)[:, None, :, None]
        padded = F.pad(images[indices.to(device)], (shift, shift, shift, shift))
        every = torch.arange(count, device=device)[:, None, None, None]
        pixels = padded[every, channel, rows, columns]
        yield torch.addcmul(-mean / std, pixels.float(), 1 / (255 * std)), labels[indices.to(device)]


def epochs(side: int, count: int, batch_size: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """By name, a function that iterates once over the set."""
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    labels, shift = torch.randint(0, 10, (count,)), side // 8
    augmentation = Augmentation(shift, flip=True)
    loader = DeviceLoader(
        images, labels, batch_size, True, mean=MEAN, std=STD, augmentation=augmentation, device=device
    )
    held, held_labels = loader.images, loader.labels
    variants: dict[str, Callable[[], Iterable[Any]]] = {
        OURS: partial(iter, loader),
        GATHER: partial(gathered, held, held_labels, batch_size, shift),
        PER_IMAGE: partial(iter, DataLoader(ImageByImage(images, labels, shift), batch_size, shuffle=True)),
    }
    if device.type == "cuda":
        source = MemoryImages(images, labels)
        splits = DataSplits("random", source, source, tuple("0123456789"), MEAN, STD, augmentation)
        variants[COPIED] = partial(train_batches, splits, batch_size=batch_size, seed=0, epoch=0, device=device)
    return {name: partial(exhaust, make, device) for name, make in variants.items()}


def exhaust(make: Callable[[], Iterable[Any]], device: torch.device) -> None:
    for images, labels in make():
        images.to(device), labels.to(device)


def measure(case: tuple[int, int, int], device: torch.device, rounds: int) -> dict[str, Any]:
    _, count, batch_size = case
    times = paired_times(epochs(*case, device), device, rounds, warmup=1)
    ours = times.pop(OURS)
    return {
        "images": count,
        "batch": batch_size,
        "images a second": summary([count / seconds for seconds in ours]),
        "times as many as": {name: paired_ratio(others, ours) for name, others in times.items()},
    }


def sentence(rows: dict[str, Any]) -> str:
    """The documentation's sentence about a CPU's rows."""
    small, large = ({name: r["median"] for name, r in rows[case]["times as many as"].items()} for case in CASES)
    return (
        f"{small[PER_IMAGE]:.0f} times as many images a second as a `DataLoader` with torchvision's transforms and "
        f"{small[GATHER]:.0f} times as many as a gather of pixels at 32×32, {large[PER_IMAGE]:.1f} and "
        f"{large[GATHER]:.0f} times at 224×224"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="only 32×32")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    path = options.out or RESULTS / f"loading_{device.type}.json"
    head, rows = header("loading", rounds=options.rounds), load_rows(path, options.resume)
    for name in list(CASES)[:1] if options.small else CASES:
        if name in rows:
            continue
        rows[name] = measure(CASES[name], device, options.rounds)
        save(path, head, rows)
        ratios = rows[name]["times as many as"].items()
        told = "; ".join(f"{r['median']:.1f} × {other} ({r['q1']:.1f} to {r['q3']:.1f})" for other, r in ratios)
        print(f"{name}: {rows[name]['images a second']['median']:,.0f} images a second, {told}", flush=True)


if __name__ == "__main__":
    main()
