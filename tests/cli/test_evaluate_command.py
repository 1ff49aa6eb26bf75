"""``lowmode-fx evaluate``: the number that ``train`` printed, from its folder, and one line for each mistake."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from commands import Run
from safetensors.torch import load_file
from training import tiny_model, write_images

from lowmode_fx import cli
from lowmode_fx.train import load_checkpoint, load_data
from lowmode_fx.train.batches import val_batches

MODEL = "training:tiny_model"
QUICK = ("--no-compile", "--device", "cpu", "--workers", "0", "--lr", "0.02")
CLASSES = {"cat": 9, "dog": 9, "owl": 9}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``digits``: a run with an average of its weights; ``pets``: one on images in files, with a test set."""
    root = tmp_path_factory.mktemp("runs")
    for seed, part in enumerate(("train", "val", "test")):
        write_images(root / "set" / part, CLASSES, seed=seed)
        write_images(root / "other" / part, CLASSES, seed=seed + 3)
        write_images(root / "birds" / part, {"cat": 2, "dog": 2, "emu": 2})
        write_images(root / "two" / part, {"cat": 2, "dog": 2})
        write_images(root / "oblong" / part, CLASSES, side=12)
    averaged = ("--data", "digits", "--image-size", "8", "--epochs", "3", "--ema", "0.9", "--tail", "0.3")
    pets = ("--data", f"folder:{root / 'set'}", "--epochs", "2", "--batch-size", "9", "--label-smoothing", "0.1")
    with pytest.MonkeyPatch.context() as patch:
        for name, options in (("digits", averaged), ("pets", pets)):
            patch.setattr(sys, "argv", ["lowmode-fx", "train", MODEL, *options, *QUICK, "--out", str(root / name)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code
    yield root


def found(run: Run, *arguments: str) -> dict[str, Any]:
    outcome = run("evaluate", *arguments, "--format", "json")
    assert outcome.status == 0, outcome.error
    return dict(json.loads(outcome.out))


def test_the_accuracy_is_the_one_that_train_printed(run: Run, root: Path) -> None:
    for name in ("digits", "pets"):
        results = json.loads((root / name / "summary.json").read_text())["results"]
        assert found(run, str(root / name))["accuracy"] == results["final_accuracy"]
        if name == "pets":
            assert found(run, str(root / name), "--on", "test")["accuracy"] == results["test_accuracy"]


def test_the_checkpoint_before_it_is_of_the_epoch_before(run: Run, root: Path) -> None:
    records = load_checkpoint(root / "digits").state["records"]
    before = found(run, str(root / "digits"), "--checkpoint", "previous")
    assert before["accuracy"] == records[-2]["val_accuracy"] != records[-1]["val_accuracy"]
    assert before["weights"] == f"averaged weights of {root / 'digits/checkpoint.previous'}, after epoch 2"


@pytest.mark.parametrize(("part", "set_"), [("train", "set"), ("val", "set"), ("val", "other")])
def test_loss_and_error_by_hand(run: Run, root: Path, part: str, set_: str) -> None:
    """Against the network itself on the images themselves, without smoothing, by the run's mean and deviation."""
    model = tiny_model(3).eval()
    model.load_state_dict(load_file(root / "pets/checkpoint/model.safetensors"))
    own, splits = (load_data(f"folder:{root / name}") for name in ("set", set_))
    images = torch.stack([getattr(splits, part).read(index)[0] for index in range(27)]).double() / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (own.mean, own.std))
    labels = getattr(splits, part).labels
    with torch.no_grad():
        logits = model(((images - mean) / std).float())
    other = () if set_ == "set" else ("--data", f"folder:{root / set_}")
    result = found(run, str(root / "pets"), "--on", part, *other, "--batch-size", "4")
    assert result["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    right = int((logits.argmax(1) == labels).sum())
    assert (result["right"], result["images"]) == (right, 27) and 0 < right < 27
    assert result["standard_error"] == pytest.approx(math.sqrt(right / 27 * (1 - right / 27) / 27))


@pytest.mark.parametrize(("part", "word"), [("val", "validation"), ("test", "test"), ("train", "train")])
def test_only_the_images_that_are_evaluated_are_decoded(run: Run, root: Path, part: str, word: str) -> None:
    outcome = run("evaluate", str(root / "pets"), "--on", part)
    assert (outcome.status, outcome.error) == (0, f"decoding {word} images …\n")


def test_a_folder_of_classes_alone(run: Run, root: Path, tmp_path: Path) -> None:
    """All of its images, some of the classes too, by the run's numbers of them."""
    run_folder, other = str(root / "pets"), root / "other/val"
    split = found(run, run_folder, "--data", f"folder:{root / 'other'}")
    alone = found(run, run_folder, "--data", f"folder:{other}")
    assert alone == {**split, "data": f"folder:{other}", "on": "all", "loss": pytest.approx(split["loss"])}
    assert split["on"] == "val"
    shown = run("evaluate", run_folder, "--data", f"folder:{root / 'other/test'}").out.splitlines()
    assert shown[2].split()[:2] == ["all", "27"]
    rights = []
    for name in CLASSES:
        (tmp_path / name / name).mkdir(parents=True)
        shutil.copytree(other / name, tmp_path / name / name, dirs_exist_ok=True)
        one = found(run, run_folder, "--data", f"folder:{tmp_path / name}")
        rights.append(one["right"])
        assert one["images"] == 9
    assert sum(rights) == split["right"] and len(set(rights)) > 1
    refused = run("evaluate", run_folder, "--data", f"folder:{other}", "--on", "test")
    assert refused.status == 2 and "no class folders in" in refused.error


def test_averaged_weights_or_the_last_ones(run: Run, root: Path) -> None:
    averaged, last = (found(run, str(root / "digits"), flag) for flag in ("--ema", "--no-ema"))
    assert averaged == found(run, str(root / "digits"))
    assert averaged["loss"] != last["loss"]
    assert found(run, str(root / "digits"), "--checkpoint", str(root / "digits"))["loss"] == last["loss"]
    files = {"checkpoint/model.safetensors": last, "ema.safetensors": averaged}
    for name, result in files.items():
        path = str(root / "digits" / name)
        assert found(run, str(root / "digits"), "--checkpoint", path) == {**result, "weights": path}


def test_a_table_says_what_was_evaluated(run: Run, root: Path) -> None:
    out = run("evaluate", str(root / "digits")).out.splitlines()
    folder = root / "digits/checkpoint"
    assert out[0] == f"{MODEL} on digits, images of 3×8×8; averaged weights of {folder}, after epoch 3"
    assert out[1].split() == ["on", "images", "right", "accuracy", "±", "loss", "(cross_entropy)"]
    assert out[2].split()[:2] == ["val", "360"] and len(out) == 3


def test_a_loss_of_a_users_own(run: Run, root: Path, tmp_path: Path) -> None:
    """By its name in the summary; one that can't see what the model returns in eval mode costs the loss alone."""
    for name in ("worst", "no_loss"):
        shutil.copytree(root / "pets", tmp_path / name)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        summary["settings"].update(criterion=f"test_evaluate_command:{name}", label_smoothing=0.0)
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        usual = found(run, str(root / "pets"))
        assert found(run, str(tmp_path / "worst"))["loss"] == 7.0
        outcome = run("evaluate", str(tmp_path / "no_loss"), "--format", "json")
    assert json.loads(outcome.out)["loss"] is None and json.loads(outcome.out)["accuracy"] == usual["accuracy"]
    said = outcome.error.splitlines()[-1]
    assert said.startswith("note: no loss: criterion test_evaluate_command:no_loss failed on ")


def worst(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return outputs.sum() * 0 + 7


def no_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("two heads are expected")


MISTAKES = {
    ("nowhere",): "run folder 'nowhere' does not exist; give a folder that lowmode-fx train wrote",
    ("set",): "run folder 'set' holds no run: it has no summary.json; give a folder that lowmode-fx train wrote",
    ("empty",): "run folder 'empty' holds no checkpoint: its run ended before the first was written; give a folder "
    "that lowmode-fx train wrote",
    ("foreign",): "'foreign/summary.json' doesn't describe a run of lowmode-fx train: it doesn't say 'data'; give a "
    "folder that lowmode-fx train wrote",
    ("pets/checkpoint",): "run folder 'pets/checkpoint' holds no run: it has no summary.json; give 'pets'",
    ("pets", "--ema"): "--ema finds no averaged weights: the run in pets kept none; leave it out",
    ("digits", "--no-ema", "--checkpoint", "pets"): "--no-ema has no meaning for --checkpoint 'pets'; leave it out",
    ("digits", "--checkpoint", "best"): "--checkpoint 'best' does not exist; give a state_dict by torch.save, "
    ".safetensors, or a run folder",
    ("digits", "--checkpoint", "set"): "--checkpoint 'set' is a folder without a checkpoint; give a state_dict by "
    "torch.save, .safetensors, or a run folder",
    (
        "digits",
        "--checkpoint",
        "digits/summary.json",
    ): "--checkpoint 'digits/summary.json' is text, no file of "
    "weights; give a state_dict by torch.save, .safetensors, or a run folder",
    ("digits", "--checkpoint", "digits/checkpoint/state.pt"): "--checkpoint 'digits/checkpoint/state.pt' is a run's "
    "state without its weights; give model.safetensors beside it",
    (
        "digits",
        "--checkpoint",
        "pets",
    ): "checkpoint 'pets' is of another model: shape of '9.weight' is (3, 16), the model's is (10, 16); give weights "
    f"of {MODEL} with 10 classes, as the run's",
    ("once", "--checkpoint", "previous"): "--checkpoint 'previous' is not there: once holds one checkpoint, its last; "
    "give last, or leave it out",
    ("torn", "--checkpoint", "previous"): "checkpoint file 'torn/checkpoint.previous/model.safetensors' is missing; "
    "give last, or leave it out",
    (
        "lost",
    ): "checkpoint file 'lost/checkpoint/model.safetensors' is missing; no whole checkpoint is left, give another run",
    ("digits", "--checkpoint", "lost"): "checkpoint file 'lost/checkpoint/model.safetensors' is missing; no whole "
    "checkpoint is left, give other weights",
    ("digits", "--on", "test"): "--on 'test' finds no such part in digits; give train or val",
    ("pets", "--data", "folder:two"): "--data 'folder:two' has 2 classes, and the run has 3; give a set of the same",
    ("pets", "--data", "folder:birds"): "--data 'folder:birds' has other classes: class 2 is 'emu', and 'owl' in the "
    "run; give a set of the same",
    ("bands", "--data", "digits"): "--data 'digits' has no images of 4 channels, as the run's are; give folder:PATH of "
    "such images",
    ("grey",): "checkpoint 'grey/checkpoint' is of another model: shape of '0.weight' is (8, 3, 3, 3), the model's is "
    f"(8, 1, 3, 3); give weights of {MODEL} with 3 classes, as the run's",
    ("pets", "--device", "toaster"): "--device 'toaster' is not there; give auto, cpu or a GPU that torch sees",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line(run: Run, root: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    for name in ("set", "two", "birds", "pets", "digits"):
        (tmp_path / name).symlink_to(root / name)
    for name, channels in (("bands", 4), ("grey", 1)):
        shutil.copytree(root / "pets", tmp_path / name)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        summary["data"]["image_shape"][0] = channels
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    for name in ("once", "torn", "lost"):
        shutil.copytree(root / "pets", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoint.previous")
    (tmp_path / "torn/checkpoint.previous").mkdir()
    (tmp_path / "lost/checkpoint/model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    shutil.copy(root / "pets/summary.json", tmp_path / "empty")
    shutil.copytree(root / "pets", tmp_path / "foreign")
    (tmp_path / "foreign/summary.json").write_text("{}")
    outcome = run("evaluate", *arguments)
    assert outcome.status == 2 and outcome.out == ""
    wanted = MISTAKES[arguments]
    *progress, said = outcome.error.splitlines()
    assert all(line.startswith("decoding ") for line in progress)
    assert said == f"error: {wanted}"


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(run: Run, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "digits", tmp_path / "run")
    (tmp_path / "run/checkpoint/model.safetensors").write_bytes(b"half")
    outcome = run("evaluate", "run", "--format", "json")
    assert outcome.error.startswith("note: checkpoint file 'run/checkpoint/model.safetensors' is truncated, damaged")
    before = found(run, str(root / "digits"), "--checkpoint", "previous")
    assert json.loads(outcome.out)["accuracy"] == before["accuracy"]


def test_batches_are_those_of_the_set_in_order(root: Path) -> None:
    """What the oracle above assumes: each image once, in order."""
    splits = load_data(f"folder:{root / 'set'}")
    labels = [labels for _, labels in val_batches(splits, batch_size=4, device=torch.device("cpu"))]
    assert torch.cat(labels).equal(splits.val.labels)
