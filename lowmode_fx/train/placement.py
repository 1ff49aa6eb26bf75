"""Where the images of a run lie: all on the device, or on the host, from where each batch is copied."""

from __future__ import annotations

from typing import Literal

import torch

from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.splits import DataSplits
from passes.errors import OptionError
from passes.spelling import setting

Place = Literal["device", "host"]
#: Of a GPU's free memory, what images may take by default: the rest is for the network's steps.
FREE_SHARE = 0.5


def images_on(wanted: str, splits: DataSplits, device: torch.device) -> Place:
    """Where the images shall lie. ``"auto"``: on the device, where they are held in memory and it has room for them,
    and none is changed on the host.

    A CPU's images in memory are on the device. Raises ``ValueError`` where images on the device are asked for, and
    they stay in their files.
    """
    held = _held_bytes(splits)
    if splits.transform is not None and device.type != "cpu":
        if wanted == "device":
            problem = "holds images where they can't be changed one by one"
            raise OptionError("data_on", wanted, problem, f"leave it out, or give {setting('augment', 'auto')}")
        return "host"
    if wanted == "host" or (wanted == "auto" and held is None):
        return "host"
    if held is None:
        problem = f"finds the images of {splits.name} in their files"
        hint = f"load them with in_memory=True, or give {setting('data_on', 'host')}"
        raise OptionError("data_on", "device", problem, hint)
    if wanted == "device" or device.type == "cpu":
        return "device"
    if device.type != "cuda":  # how much is free isn't known
        return "host"
    free, _ = torch.cuda.mem_get_info(device)
    return "device" if held <= FREE_SHARE * free else "host"


def place_images(wanted: str, splits: DataSplits, device: torch.device) -> tuple[DataSplits, Place]:
    """The set with its images where they shall lie, and where that is.

    Raises ``ValueError`` as ``images_on`` does, and where the device has no room for them.
    """
    place = images_on(wanted, splits, device)
    if place == "host":
        return splits, place
    try:
        return splits.to(device), place
    except torch.OutOfMemoryError as error:
        size = f"{(_held_bytes(splits) or 0) / 2**30:.1f} GiB"
        problem = f"finds no room for {size} of images on {device}"
        raise OptionError("data_on", "device", problem, f"give {setting('data_on', 'host')}") from error


def _held_bytes(splits: DataSplits) -> int | None:
    """Bytes of the images, if all of them are held in memory."""
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    held = [part.nbytes for part in parts if isinstance(part, MemoryImages)]
    return sum(held) if len(held) == len(parts) else None
