"""``bench.loading``: every way makes the same kind of pictures, and the documentation says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from pages import ROOT, WORDS

from bench import loading

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_way_makes_the_pictures_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many, of one shape, with zeros' value at the borders that crops reach and the set's mean over all."""
    seen: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(loading, "exhaust", lambda make, device: torch.cat([images for images, _ in make()]))
    for name, epoch in loading.epochs(16, 300, 50, torch.device("cpu")).items():
        seen[name] = epoch()  # type: ignore[assignment]
    assert set(seen) == {loading.OURS, loading.GATHER, loading.PER_IMAGE}
    border = -torch.tensor(loading.MEAN) / torch.tensor(loading.STD)
    for images in seen.values():
        assert images.shape == (300, 3, 16, 16) and images.dtype == torch.float32
        padded = torch.isclose(images[:, :, 0, 8], border, rtol=0, atol=1e-5).all(1).double().mean()
        assert 0.2 < padded < 0.6, "two of five crops begin above the image"
        assert (images.mean((0, 2, 3)) - seen[loading.GATHER].mean((0, 2, 3))).abs().max() < 0.05


def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loading, "CASES", {"8×8": (8, 60, 20), "9×9": (9, 60, 20)})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "loading.json"
    monkeypatch.setattr(sys, "argv", ["loading", "--small", "--rounds", "3", "--out", str(out)])
    loading.main()
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["8×8"] and rows["8×8"]["images a second"]["median"] > 0
    assert all(ratio["n"] == 3 for ratio in rows["8×8"]["times as many as"].values())
    assert "images a second, " in capsys.readouterr().out


def test_the_documentation_says_what_was_measured() -> None:
    rows = json.loads((ROOT / "bench/results/loading_cpu.json").read_text())["rows"]
    assert loading.sentence(rows) in WORDS
