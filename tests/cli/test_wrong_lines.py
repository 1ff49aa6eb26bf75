"""Wrong command lines, each answered in one line: what is wrong, the option as it was typed, what to give."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from commands import Run
from training import write_images

from lowmode_fx import BernoulliSchedule, LowModeConfig, Tuning
from lowmode_fx.cli import demo
from lowmode_fx.cli.spelling import as_typed

NET = "training:tiny_model"
QUICK = "--data digits --image-size 8 --epochs 1 --no-compile --device cpu"
SHORT = "--data digits --image-size 8 --device cpu --batch-size 20"
TRAIN = f"train {NET} {QUICK}"
KINDS = "'milestones', 'cosine', 'onecycle', 'step', 'exponential', 'linear', 'plateau'; see --help"
FORMS = "give a timm name, torchvision:NAME or package.module:callable"
SIZE = "is no size; give pixels, as 224, or height and width, as 192x256"
NO_PLAN = "is not a result of `lowmode-fx tune`: "
MAKE_IT = "; make it with lowmode-fx tune"

#: Models and losses that serve for nothing here.
NETS = """
from torch import nn
from training import tiny_model

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
    def forward(self, image, mask):
        return self.conv(image) + self.conv(mask)

class Words(nn.Sequential):
    def forward(self, images):
        super().forward(images)
        return "cat"

class Fails(nn.Sequential):
    def forward(self, images):
        raise KeyError("depth")

def words():
    return Words(tiny_model())

def fails():
    return Fails(tiny_model())

def frozen():
    return tiny_model().requires_grad_(False)

def maps():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 10, 3, padding=1))

def loss(outputs):
    return outputs.sum()

def constant(outputs, labels):
    return outputs.sum()
"""
ARGUMENTS = (
    "Two.forward(image, mask) does not take these arguments: missing a required argument: 'mask'; give a model that "
)
FROZEN = "Sequential has frozen parameters alone; unfreeze some by requires_grad_(), or give another model"
MAPS = "model outputs have shape (2, 10, 8, 8), but digits has 10 classes; give a model with outputs of shape (N, 10)"

LINES = {
    # Options with two names, as they were typed.
    f"{TRAIN} --lr-schedule cosin": f"--lr-schedule: 'cosin' is not one of {KINDS}",
    f"{TRAIN} --scheduler cosin": f"--scheduler: 'cosin' is not one of {KINDS}",
    f"{TRAIN} --scheduler=cosin": f"--scheduler: 'cosin' is not one of {KINDS}",
    f"{TRAIN} --scheduler step --lr-over macs": "--lr-over 'macs' needs a rate over the whole run, and --scheduler "
    "'step' has none; give --scheduler 'cosine', or onecycle",
    f"{TRAIN} --lr-schedule step --lr-over macs": "--lr-over 'macs' needs a rate over the whole run, and --lr-schedule "
    "'step' has none; give --lr-schedule 'cosine', or onecycle",
    f"{TRAIN} --lr-schedul cosine": "No such option: --lr-schedul (Possible options: --lr-schedule, --schedule, "
    "--scheduler); see --help",
    f"report {NET} --image-size big": f"--image-size 'big' {SIZE}",
    f"report {NET} --input-size 0": f"--input-size 0 {SIZE}",
    # Numbers that are none, or out of range.
    f"{TRAIN} --period 0": "--period 0 is out of range; give an int of at least 1",
    f"{TRAIN} --epochs two": "--epochs 'two' is no integer; give an int",
    f"{TRAIN} --lr=fast": "--lr 'fast' is no number; give a number",
    f"{TRAIN} --workers 1.5": "--workers 1.5 is no integer; give an int from 0 to 256",
    f"report {NET} --in-chans three": "--in-chans 'three' is no integer; give an int from 1 to 4096",
    f"report {NET} --ratio half": "--ratio 'half' is not a ratio; give a number of at least 1, as 2 or 4/3, or one "
    "per side, as 1x2",
    f"report {NET} --kernel-ratio 1.001": "--kernel-ratio 1.001 is not a fraction with a denominator of up to 100; "
    "give the nearest, 1, or another",
    f"report {NET} --ladder 1.001,1": "--ladder 1.001 is not a fraction with a denominator of up to 100; give the "
    "nearest, 1, or another",
    f"{TRAIN} --p 0.5,0.5": "--p gives 2 values for 1 epoch; give a single number, or 1",
    f"{TRAIN} --schedule agreement --p 0.5,0": "--p 0.5,0 is no number; give one, as --schedule agreement takes for "
    "steps that pay",
    f"{TRAIN} --p 0.5 --batch-multiplier 2,3": "--batch-multiplier 2,3 gives 2 for 1 low mode, low; give one for all, "
    "or one for each",
    # Names.
    "reprot resnet18": "No such command 'reprot'. Did you mean 'report'?",
    "report": f"Missing argument 'model'; {FORMS}",
    "train": f"Missing argument 'model'; {FORMS}",
    "evaluate": "Missing argument 'RUN'; give a run folder that `train` wrote",
    "report torchvision:": "model 'torchvision:' names nothing after its colon; give torchvision:NAME",
    "report training:": "model 'training:' names nothing after its colon; give package.module:callable",
    "draw :tiny_model": "model ':tiny_model' names nothing before its colon; give package.module:callable",
    "report folder": f"model 'folder' is a folder here, and timm has no model of that name; {FORMS}",
    "report binary": f"model 'binary' is a file here, and timm has no model of that name; {FORMS}",
    f"report {NET} --submodule body": "--submodule 'body' is no module of Sequential; near matches: 0, 1, 2, 3 (of 10)",
    f"report {NET} --strides 0=0": "--strides has '0=0', which is no glob with its stride; give globs with strides, as "
    "conv1=1 or conv1=1x2",
    f"report {NET} --strides 0=2x2x2": "--strides: 0 has 2 spatial sides, but 3 strides (2, 2, 2); give one per side",
    "train '' --data digits": "model '' is empty; give a value, or leave it out",
    "report training:model_without_options --in-chans 4": "Sequential fails on (2, 4, 224, 224) of torch.float32: "
    "images have 4 channels, but the model takes 3; give --in-chans 3, or a model that takes 4",
    f"train {NET} --data torchvision:=folder": "--data 'torchvision:=folder' names no set; give torchvision:NAME=PATH",
    "report resnet10t.c4_in1k": "model 'resnet10t.c4_in1k': timm has no such weights; near matches: resnet10t.c3_in1k",
    # Models and losses.
    "report odd_nets:Two --input-size 8": f"{ARGUMENTS}takes images alone, or its part that does, by --submodule",
    f"train odd_nets:Two {QUICK}": f"{ARGUMENTS}takes images alone",
    "report odd_nets:words --input-size 8": "Words returns no tensor; give a model that returns logits or maps",
    "report odd_nets:fails --input-size 8": "Fails fails on (2, 3, 8, 8) of torch.float32: KeyError: 'depth' (line 19 "
    "of odd_nets.py)",
    f"probe odd_nets:frozen {SHORT}": FROZEN,
    f"tune odd_nets:frozen {SHORT}": FROZEN,
    f"probe odd_nets:maps {SHORT}": MAPS,
    f"{TRAIN} --criterion odd_nets:constant --label-smoothing 0.1": "criterion odd_nets:constant takes no label "
    "smoothing: it is called with outputs and labels alone; leave out --label-smoothing",
    f"{TRAIN} --drop-maxpools pool": "--drop-maxpools: 'pool' matches nothing: this model has no max pool; leave it "
    "out",
    # Files and folders.
    "train run": "'run' is the folder of a run; give --resume to go on with it, or a model and --data",
    f"{TRAIN} --tuned nothing": f"--tuned 'nothing' can't be read (No such file or directory){MAKE_IT}",
    f"{TRAIN} --tuned folder": f"--tuned 'folder' can't be read (Is a directory){MAKE_IT}",
    f"{TRAIN} --tuned binary": f"--tuned 'binary' is no JSON{MAKE_IT}",
    f"{TRAIN} --tuned empty": f"--tuned 'empty' is no JSON{MAKE_IT}",
    f"{TRAIN} --tuned epochs.json": f"--tuned 'epochs.json' {NO_PLAN}its epochs is 'two'{MAKE_IT}",
    f"{TRAIN} --tuned ratio.json": f"--tuned 'ratio.json' {NO_PLAN}ratio='x' is not a ratio{MAKE_IT}",
    f"{TRAIN} --tuned p.json": f"--tuned 'p.json' {NO_PLAN}p[0]=2.0 is not a probability{MAKE_IT}",
    f"{TRAIN} --out binary": "run folder 'binary' is a file; give another --out",
    f"{TRAIN} --out folder": "folder 'folder' is not empty and holds no run; give another --out",
    f"{TRAIN} --resume --overwrite": "--resume and --overwrite exclude each other; give one of them",
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, one_thread: None) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    (tmp_path / "odd_nets.py").write_text(NETS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/summary.json").write_text("{}")
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    plan = Tuning(LowModeConfig(), BernoulliSchedule([1.0, 0.0]), 0.5, 2, 0.5).to_dict()
    config, schedule = {**plan["config"], "ratio": "x"}, {**plan["schedule"], "p": [2.0, 0.0]}
    for name, changed in {"epochs": "two", "ratio": config, "p": schedule}.items():
        part = {"epochs": "epochs", "ratio": "config", "p": "schedule"}[name]
        (tmp_path / f"{name}.json").write_text(json.dumps({**plan, part: changed}))


@pytest.mark.parametrize("line", LINES)
def test_one_line_says_what_and_what_to_do(run: Run, line: str) -> None:
    status, out, error = run(*shlex.split(line))
    assert (status, error) == (2, f"error: {LINES[line]}\n")
    assert not out or line.startswith("train")  # which says first what it trains on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--full-only", FROZEN),
        (
            "--criterion odd_nets:loss",
            "criterion odd_nets:loss failed on a model's outputs and labels of shape (125,) ",
        ),
    ],
)
def test_what_training_finds_out(run: Run, options: str, message: str) -> None:
    model = "odd_nets:frozen" if message == FROZEN else NET
    outcome = run("train", model, *shlex.split(QUICK), *shlex.split(options))
    (line,) = outcome.error.splitlines()
    assert outcome.status == 2 and line.startswith(f"error: {message}"), outcome
    assert message == FROZEN or line.endswith("but 2 were given); give a callable of these two")


def test_a_set_of_one_class_is_noted(run: Run, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_images(tmp_path / "one" / part, {"cat": 4})
    said = run("train", NET, "--data", "folder:one", *shlex.split(QUICK)[2:], "--batch-size", "2").out.splitlines()
    assert "note: all images are of one class, 'cat': there is nothing to tell apart" in said


def test_a_scheduler_is_named_as_it_was_typed_in_notes_too(run: Run) -> None:
    for name in ("--scheduler", "--lr-schedule"):
        outcome = run(*shlex.split(TRAIN), name, "cosine", "--milestones", "1", "--out", name[2:])
        assert f"note: --milestones 1 does nothing here: the rate follows {name} cosine" in outcome.out.splitlines()


def test_a_ladder_without_low_epochs_is_told_where_to_give_some(run: Run) -> None:
    said = run(*shlex.split(TRAIN), "--ladder", "2x0,1x1").out
    assert "warning: no step is in low-mode; give more --epochs, or more of them to low modes" in said


def test_the_last_of_several_names_counts() -> None:
    names = ("--lr-schedule", "--scheduler")
    assert as_typed(names, ["train", "--scheduler", "step"]) == "--scheduler"
    assert as_typed(names, ["--scheduler=step", "--lr-schedule", "cosine"]) == "--lr-schedule"
    assert as_typed(names, ["--schedule", "ladder"]) == "--lr-schedule"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 2", "--epochs 2 is too small; give at least 3: one for each mode of the ladder"),
        ("--epochs two", "--epochs 'two' is no integer; give an int"),
        ("--out binary", "run folder 'binary' is a file; give another --out"),
        ("--out folder", "folder 'folder' is not empty and holds no run; give another --out"),
        ("--out run", "run folder 'run' exists; give --overwrite or another --out"),
        ("--out ''", "--out: a path is empty; give one, or leave the option out"),
        ("--epoch 3", "No such option: --epoch (Possible options: --epochs); see --help"),
    ],
)
def test_the_demo_answers_in_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["demo", *shlex.split(options)])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"
