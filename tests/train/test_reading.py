"""Images that are read by several processes: the bytes that one reads, the first mistake by name, nothing drawn."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from training import write_images

from lowmode_fx.train import load_data, reading
from lowmode_fx.train.folder import FolderImages
from lowmode_fx.train.layout import scan_folder
from lowmode_fx.train.reading import read_all, read_held

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"cat": 14, "dog": 9})
    write_images(tmp_path / "val", {"cat": 3, "dog": 2}, seed=1)
    return tmp_path


def test_processes_read_what_one_reads(folder: Path) -> None:
    images = FolderImages.of(scan_folder(folder).train, None, 3)
    generator = torch.get_rng_state()
    alone, together = (images.decode_all("decoding", workers) for workers in (0, 2))
    assert torch.equal(alone.images, together.images) and alone.images.shape == (23, 3, 8, 8)
    assert alone.labels.tolist() == together.labels.tolist() == [0] * 14 + [1] * 9
    assert all(torch.equal(alone.images[place], images.read(place)[0]) for place in range(23))
    assert torch.equal(generator, torch.get_rng_state())
    held = load_data(f"folder:{folder}", workers=2)
    assert torch.equal(held.train.images, alone.images)  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_file_that_cannot_be_read_is_named(folder: Path, workers: int) -> None:
    for name in ("cat/012.png", "dog/004.png"):
        (folder / "train" / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^cannot decode image '.*cat/012\.png' "):
        load_data(f"folder:{folder}", workers=workers)


class Ends:
    """A process that comes to its second image is gone, as one without memory is."""

    def read(self, index: int) -> tuple[torch.Tensor, int]:
        if index > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, 2, 2, dtype=torch.uint8), 0


def test_a_process_that_is_gone_is_reported_in_a_line() -> None:
    told = r"^a process that reads images has ended: .*; give workers=0, or fewer of them$"
    with pytest.raises(ValueError, match=told) as error:
        read_all(Ends().read, 8, "decoding", (3, 2, 2), workers=1)
    assert "\n" not in str(error.value)


def test_what_is_handed_over_at_once_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of shared memory a container may have 64 MiB."""
    sizes: list[int] = []
    whole = reading.read_batches

    def listening(read: Any, batches: Any, *given: Any) -> Any:
        sizes.extend(map(len, batches))
        return whole(read, batches, *given)

    monkeypatch.setattr(reading, "read_batches", listening)
    held = read_all(lambda index: (torch.zeros(3, 512, 512, dtype=torch.uint8), 0), 40, "decoding", (3, 512, 512), 0)
    assert sizes == [2] * 20 and held.images.shape == (40, 3, 512, 512)


def test_small_sets_start_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    loader = torch.utils.data.DataLoader
    monkeypatch.setattr(
        "lowmode_fx.train.reading.DataLoader",
        lambda *given, num_workers, **named: asked.append(num_workers) or loader(*given, **named),
    )
    monkeypatch.setattr("lowmode_fx.train.reading.os.cpu_count", lambda: 4)
    load_data(f"folder:{folder}")
    assert asked == [0, 0]
    read_all(lambda index: (torch.zeros(3, 2, 2, dtype=torch.uint8), 0), 200, "decoding", (3, 2, 2))
    assert asked[2:] == [4]


def test_each_image_is_decoded_once_the_first_too() -> None:
    asked: list[int] = []

    def read(index: int) -> tuple[torch.Tensor, int]:
        asked.append(index)
        return torch.full((3, 2, 2), index, dtype=torch.uint8), index

    held = read_held(read, 3, "images", most=2**20, workers=0)
    assert asked == [0, 1, 2] and held.labels.tolist() == [0, 1, 2]
    assert held.images[:, 0, 0, 0].tolist() == [0, 1, 2]
