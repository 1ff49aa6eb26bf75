"""Images that are read by several processes: the bytes that one reads, the first mistake by name, nothing drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training import write_images

from lowmode_fx.train import load_data
from lowmode_fx.train.folder import FolderImages
from lowmode_fx.train.layout import scan_folder
from lowmode_fx.train.reading import read_all

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
    read_all(lambda index: (torch.zeros(3, 2, 2, dtype=torch.uint8), 0), 200, "decoding")
    assert asked[2:] == [4]
