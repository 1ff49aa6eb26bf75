"""``channels_last``: the run's weights and images have that format in every step, and the results are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import digits, quick_run, quick_settings, tiny_model, tiny_net

from lowmode_fx.train.batches import train_batches


@pytest.mark.parametrize("make", [tiny_model, tiny_net])
def test_every_step_has_weights_and_images_in_it(make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    convolve = torch.nn.Conv2d._conv_forward

    def forward(self: torch.nn.Conv2d, images: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last
        both = [images.is_contiguous(memory_format=layout), self.weight.is_contiguous(memory_format=layout)]
        seen.append(all(both) if self.training else both[1])
        return convolve(self, images, *rest)

    weights = {}
    for name, last in (("plain", False), ("last", True)):
        torch.manual_seed(0)
        net = make()  # type: ignore[operator]
        with monkeypatch.context() as patch:
            if last:
                patch.setattr(torch.nn.Conv2d, "_conv_forward", forward)
            quick_run(quick_settings(epochs=1, milestones=(), compile=False, channels_last=last), tmp_path / name, net)
        weights[name] = load_file(tmp_path / name / "checkpoint/model.safetensors")
    assert seen and all(seen)
    for name, value in weights["plain"].items():
        torch.testing.assert_close(weights["last"][name], value, rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_in_either_format(tmp_path: Path) -> None:
    quick_run(quick_settings(epochs=1, milestones=()), tmp_path, tiny_model())
    _, result = quick_run(quick_settings(epochs=2, milestones=(), channels_last=True), tmp_path, tiny_model(), True)
    assert len(result.records) == 2


def test_batches_are_the_same_pictures() -> None:
    options = {"batch_size": 16, "seed": 3, "epoch": 1, "device": torch.device("cpu")}
    plain, last = (next(train_batches(digits(), **options, channels_last=last)) for last in (False, True))
    assert torch.equal(plain[0], last[0]) and torch.equal(plain[1], last[1])
    assert last[0].is_contiguous(memory_format=torch.channels_last)
