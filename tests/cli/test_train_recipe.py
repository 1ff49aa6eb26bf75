"""``train`` on a folder of images of several sizes by a standard recipe at 224 pixels, in both modes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from PIL import Image

#: The recipe of ImageNet's residual networks: random resized crops and flips, SGD whose rate falls in steps.
STANDARD = "--image-size 224 --augment standard --scheduler step --decay-epochs 4 --lr 0.05 --weight-decay 1e-4"
#: What torchvision trains its second weights with, in small.
STRONG = "--image-size 224 --augment strong --scheduler cosine --warmup-epochs 1 --label-smoothing 0.1 --ema 0.9"


def write_stripes(root: Path, count: int, seed: int) -> None:
    """JPEGs of 230 to 300 pixels a side with stripes across or down, of any colour: a class each."""
    rng = np.random.default_rng(seed)
    for name in ("across", "down"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(230, 300, 2)
            rows, columns = np.mgrid[:height, :width]
            stripes = ((rows if name == "across" else columns) // 4 % 2)[..., None]
            colours = rng.integers(0, 256, (2, 3))
            pixels = np.where(stripes, colours[0], colours[1]) + rng.normal(0, 8, (height, width, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / name / f"{number}.jpg", quality=90)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--ladder 2x4,1x2 --kernel-ratio 1", "--full-only"])
@pytest.mark.parametrize("recipe", [STANDARD, STRONG])
def test_a_folder_of_224_pixels_trains_by_the_book(mode: str, recipe: str, run: Run, tmp_path: Path) -> None:
    write_stripes(tmp_path / "set/train", 64, 0)
    write_stripes(tmp_path / "set/val", 16, 1)
    given = f"--data folder:{tmp_path / 'set'} --epochs 6 --batch-size 16 --no-compile --device cpu --out run"
    outcome = run("train", "training:tiny_model", *given.split(), *recipe.split(), *mode.split())
    assert outcome.status == 0, outcome.error
    summary = json.loads(Path("run/summary.json").read_text())
    steps = summary["results"]["steps"]
    assert steps == ({"full": 48} if "full" in mode else {"low": 32, "full": 16})
    assert summary["data"]["image_shape"] == [3, 224, 224] and "images of 3×224×224 (held at 256), 2" in outcome.out
    # A network that has seen images at both sizes answers at the full one.
    assert summary["results"]["best_accuracy"] > 0.8, "chance is 0.5"
    assert Path("run/ema.safetensors").exists() == ("--ema" in recipe)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "title", ["# 224 pixels, a modern recipe", "# ImageNet's usual recipe; compare with --full-only"]
)
@pytest.mark.parametrize("baseline", [False, True])
def test_the_documented_recipes_train_in_both_modes(title: str, baseline: bool, run: Run, tmp_path: Path) -> None:
    """The commands of the page, on a few images and with a small network."""
    page = Path(__file__).parents[2] / "docs/train/command-line.md"
    _, _, after = page.read_text().partition(f"{title}\n")
    command = after.replace("\\\n", " ").splitlines()[0].split()
    assert command[:2] == ["lowmode-fx", "train"] and "224" in command
    write_stripes(tmp_path / "set/train", 8, 0)
    write_stripes(tmp_path / "set/val", 2, 1)
    arguments = ["train", "training:tiny_model", *command[3:], "--data", f"folder:{tmp_path / 'set'}", "--epochs", "2"]
    arguments += ["--batch-size", "8", "--warmup-epochs", "0", "--no-compile", "--device", "cpu", "--out", "run"]
    outcome = run(*arguments, *["--full-only"] * baseline)
    assert outcome.status == 0, outcome.error
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["data"]["image_shape"] == [3, 224, 224] and summary["status"] == "complete"
    assert summary["results"]["low_steps"] == 0 if baseline else summary["results"]["low_steps"] > 0
    assert summary["results"]["full_steps"] >= 2, "the tail is full"
