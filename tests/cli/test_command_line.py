"""The command line as people use it: typos, odd values, code of their own, terminals of every kind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from commands import Outcome, Run

from lowmode_fx import cli
from lowmode_fx.cli.idle_options import idle_options
from lowmode_fx.cli.streams import print_in_any_encoding
from lowmode_fx.train.data_spec import short_name
from lowmode_fx.utils.atomic import write_atomically, write_text
from lowmode_fx.utils.user_code import user_code

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "training:tiny_model"
QUICK = ("--data", "digits", "--image-size", "8", "--epochs", "1", "--no-compile", "--device", "cpu")
NETS = """
import training
from torch import nn

class Raises(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.net = training.tiny_model(num_classes)
    def forward(self, images):
        logits = self.net(images)
        if logits.dim():
            raise LookupError("no logits today")

def raises(num_classes=10):
    return {}["depth"]

def ends(num_classes=10):
    raise SystemExit(3)

def halved(num_classes=10):
    layers = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    return nn.Sequential(*layers).half()

def prints(num_classes=10):
    print("hello")
    class Net(type(training.tiny_model())):
        def forward(self, images):
            print("forward")
            return super().forward(images)
    return Net(*training.tiny_model(num_classes))
"""


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Modules of a user's own, in the folder that the command runs in."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {"our_nets": NETS, "broken_net": "1 / 0\n", "ending_net": "import sys; sys.exit(4)\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)


def refused(outcome: Outcome) -> str:
    """The one line of a refusal."""
    assert outcome.status == 2, outcome
    lines = [line for line in outcome.error.splitlines() if not line.endswith(" …")]
    assert len(lines) == 1 and lines[0].startswith("error: "), outcome
    return lines[0]


# The first second


def test_help_typos_and_refusals_need_no_torch() -> None:
    """In a process of its own: whatever is imported on the way shows in ``sys.modules``."""
    lines = [
        [],
        ["train", "--help"],
        ["trian"],
        ["train", "resnet18", "--data", "digits", "--epoch", "3"],
        ["train", "resnet18", "--data", "digits", "--lr", "-1"],
        ["train", "resnet18", "--data", "folder:nowhere"],
        ["train", "resnet18", "--data", "digits", "--device", "toaster"],
        ["train", "resnet18", "--data", "digits", "--schedule", "agreement", "--measure-every", "5"],
        ["train", "resnet18", "--data", "digits", "--ladder", "2x1,3x1"],
        ["draw", "resnet18", "--out", "pair.gif"],
        ["tune", "resnet18", "--data", "digits", "--ratios", "9"],
        ["evaluate", "nowhere"],
        ["train", "resnet18", "--data", "digits", "--weights", "nowhere.pt"],
        ["train", "--resume", "nowhere"],
    ]
    code = f"""
import sys
from lowmode_fx import cli
for line in {lines!r}:
    sys.argv = ["lowmode-fx", *line]
    try:
        cli.main()
    except SystemExit as ended:
        print("status", ended.code, file=sys.stderr)
print("heavy", sorted({{"torch", "numpy", "timm", "torchvision", "matplotlib"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stderr.splitlines()[-1] == "heavy []", done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("status")] == [
        "status 0",
        "status 0",
        *["status 2"] * 12,
    ]


def test_of_several_ranks_the_first_says_what_is_wrong() -> None:
    """As torchrun starts them, and ends the others with the first that fails."""
    command = [sys.executable, "-m", "lowmode_fx", "train", "resnet18", "--data", "digits", "--fsdp", "--ema", "0.9"]
    ranks = []
    for rank in "10":
        environment = {**os.environ, "RANK": rank, "WORLD_SIZE": "2"}
        ranks.append(
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2])
        )
    other, first = ranks
    told = first.communicate()[1]
    assert (
        first.returncode == 2 and told.count("\n") == 1 and told.startswith("error: --ema 0.9 needs whole weights on ")
    )
    assert other.poll() is None
    other.terminate()
    assert other.communicate()[1] == ""


def test_a_rank_that_fails_alone_speaks_after_a_while(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("lowmode_fx.cli.time.sleep", waited.append)
    for rank, seconds in (("0", []), ("1", [cli.FIRST_RANK_SPEAKS])):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        waited.clear()
        assert "is unknown" in run("train", MODEL, "--data", "mnist").error and waited == seconds


def test_without_a_command_it_prints_its_help(run: Run) -> None:
    outcome = run()
    assert (outcome.status, outcome.error) == (0, "") and "Usage: lowmode-fx" in outcome.out and "train" in outcome.out


@pytest.mark.parametrize("command", ["report", "probe", "tune", "train", "draw"])
def test_help_has_an_example_and_choices(run: Run, command: str) -> None:
    said = run(command, "--help").out
    assert f"Example: lowmode-fx {command} resnet" in said
    assert "gaussian|bilinear|area" in said.replace("\n", "").replace(" ", "")


# Values


ODD = {
    "an empty value": (("--p", ""), "--p '' is empty; give a value, or leave it out"),
    "blanks": (("--keep-convs", " "), "--keep-convs ' ' is empty"),
    "commas alone": (("--keep-convs", ",,"), "--keep-convs ',,' has an empty place between its commas; give a,b"),
    "an empty milestone": (("--milestones", "1,,2"), "--milestones 1,,2 has an empty place"),
    "no path": (("--out", ""), "--out: a path is empty; give one, or leave the option out"),
    "a number that is none": (("--p", "nan"), "--p nan is not a probability; give a number from 0 to 1"),
    "half a repetition": (("--p", "0.5x"), "--p 0.5x is no list of numbers"),
    "a repetition of nothing": (("--p", "0.5x0"), "--p 0.5x0 repeats a number less than once"),
    "repetitions without end": (("--p", "0.8x99999999999"), "--p gives 99999999999 values for 1 epoch;"),
    "a negative share": (("--tail", "-1"), "--tail -1.0 is not a share; give a number from 0 to 1"),
    "a negative weight": (("--low-weight", "-1"), "--low-weight -1.0 is out of range; give a number above 0"),
    "a weight that is none": (("--low-weight", "nan"), "--low-weight nan is out of range"),
    "a batch of more images than there are": (
        ("--p", "0.5", "--batch-multiplier", "1e5"),
        "makes low-mode's batch 12500000 of 1375 images",
    ),
    "a multiplier beyond all batches": (
        ("--p", "0.5", "--batch-multiplier", "1e300"),
        "--batch-multiplier 1e+300 is out of range; give a number of at least 1, at most 1e+06",
    ),
    "a decay beyond numbers": (
        ("--weight-decay", "1e300"),
        "--weight-decay 1e+300 is out of range; give a number of at least 0, at most 1e+30",
    ),
    "a rate beyond numbers": (("--lr", "1e300"), "--lr 1e+300 is out of range; give a number above 0, at most 1e+30"),
    "a rate that is none": (("--lr", "nan"), "--lr nan is out of range"),
    "epochs without end": (("--epochs", "1" + "0" * 21), "is too large; give an int from 1 to 100000"),
    "a raised number": (("--epochs", "10²¹"), "--epochs 10²¹ is no integer; give an int"),
    "a device without numbers": (("--device", "meta"), "--device 'meta' is not there; give auto, cpu or a GPU"),
    "images without end": (
        ("--image-size", "100000000"),
        "--image-size 100000000 is out of range; give an int from 1 to 16384",
    ),
    "a measurement too often": (
        ("--schedule", "agreement", "--measure-every", "5"),
        "--measure-every 5 would spend more than 10% of the steps on measuring 4 batches; give at least 80",
    ),
    "a grey that is none": (("--in-chans", "7"), "--in-chans 7 is out of range; give 3 (RGB) or 1 (grey)"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_invalid_value_is_reported_by_its_option(run: Run, name: str, tmp_path: Path) -> None:
    options, message = ODD[name]
    assert message in refused(run("train", MODEL, *QUICK, *options))
    assert not (tmp_path / "runs").exists()


def test_sizes_beyond_memory_are_refused(run: Run) -> None:
    assert "--input-size 100000000 is too large; give at most 16384" in refused(
        run("report", MODEL, "--input-size", "100000000")
    )
    assert "--submodule '' is empty" in refused(run("report", MODEL, "--submodule", ""))


def test_options_that_do_nothing_are_reported(run: Run) -> None:
    kept = ("--kernel-ratio", "1", "--rounding", "floor")
    rates = ("--lr-schedule", "cosine", "--milestones", "1")
    said = run("train", MODEL, *QUICK, *kept, "--period", "3", *rates, "--workers", "3")
    assert said.status == 0, said.error
    assert [line for line in said.out.splitlines() if "does nothing here" in line] == [
        "note: --period 3 does nothing here: it belongs to --schedule periodic",
        "note: --milestones 1 does nothing here: the rate follows --lr-schedule cosine",
        "note: --workers 3 does nothing here: nothing is decoded",
        "note: --rounding does nothing here: --kernel-ratio is 1, which keeps every kernel",
    ]


def test_low_mode_options_of_a_full_run_are_reported() -> None:
    given = {"p": "0.5", "measure_every": 100, "tail": None}
    low = {"ratio": "3", "whole_images": True, "gain": None}
    lines = list(
        idle_options(given, low, schedule="bernoulli", lr_schedule="milestones", full_only=True, growing=False)
    )
    assert [line.split(" does")[0] for line in lines] == [
        "note: --ratio 3",
        "note: --whole-images",
        "note: --p 0.5",
        "note: --measure-every 100",
    ]
    of_run = partial(idle_options, schedule="bernoulli", lr_schedule="cosine", full_only=False)
    assert not list(of_run({"p": "0.5", "lr_rule": "sqrt"}, low, growing=True))
    assert list(of_run({"lr_rule": "sqrt"}, low, growing=False)) == [
        "note: --lr-rule sqrt does nothing here: no batches grow, as by --batch-multiplier above 1"
    ]


def test_results_are_named_after_the_data() -> None:
    assert short_name("folder:path/to/cats") == "cats" and short_name("folder:path/to/cats/") == "cats"
    assert short_name("digits") == "digits" and short_name("cifar10:somewhere") == "cifar10"


# A user's own code


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("our_nets:raises", "can't be built (KeyError: 'depth', at our_nets.py:15 in raises)"),
        ("our_nets:ends", "can't be built (it calls sys.exit(3), at our_nets.py:18 in ends)"),
        ("broken_net:net", "imported (ZeroDivisionError: division by zero, at broken_net.py:1 in <module>)"),
        ("ending_net:net", "can't be imported: its module"),
        ("our_nets:Raises", "no logits today"),
    ],
)
def test_what_a_callable_raises_is_one_line_with_its_place(run: Run, model: str, message: str) -> None:
    assert message in refused(run("report", model, "--input-size", "8"))


def test_errors_of_user_code_keep_their_cause() -> None:
    with (
        pytest.raises(ValueError, match=r"^it can't be built \(ZeroDivisionError: division by zero, at test_c") as told,
        user_code("it can't be built"),
    ):
        1 / 0  # noqa: B018
    assert isinstance(told.value.__cause__, ZeroDivisionError)


HALVED = "; its weights are of torch.float16; give a model with weights of torch.float32"


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (("report", "our_nets:halved", "--input-size", "8"), HALVED),
        (("train", "our_nets:halved", *QUICK), f"{HALVED}, with --autocast 'bf16' for half precision"),
        (("train", "our_nets:halved", *QUICK, "--full-only"), f"{HALVED}, with --autocast 'bf16' for half precision"),
    ],
)
def test_weights_of_half_precision_are_told_as_options(run: Run, command: tuple[str, ...], ends: str) -> None:
    said = refused(run(*command))
    assert " fails on " in said and said.endswith(ends), said


def test_batches_that_grow_are_offered_the_other_half_precision_as_an_option(run: Run) -> None:
    growing = ("--batch-multiplier", "pixels", "--p", "0.5", "--kernel-ratio", "1")
    assert refused(run("train", MODEL, *QUICK, *growing, "--autocast", "fp16")).endswith(
        "--batch-multiplier 'pixels' needs each batch to be a step, and a gradient scaler skips some; give --autocast "
        "'bf16'"
    )


def test_what_a_callable_prints_does_not_spoil_json(run: Run) -> None:
    outcome = run("report", "our_nets:prints", "--input-size", "8", "--pool-convs", "all", "--format", "json")
    assert json.loads(outcome.out)["name"] == "our_nets:prints"
    assert outcome.error.startswith("hello\n") and "forward\n" in outcome.error


# Terminals


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_will_do(run: Run, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert run("report", MODEL, "--input-size", "8", "--pool-convs", "all").status == 0
    said = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert ("3×3 → 1×1" if encoding == "utf-8" else "3 -> 1") in said and "?" not in said


def test_signs_have_plain_spellings(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    print_in_any_encoding()
    print("3×3 → 1×1 … é █ 🦆")
    assert stream.buffer.getvalue() == b"3x3 -> 1x1 ... e # ?\n"  # type: ignore[attr-defined]


# Files


@pytest.mark.parametrize("command", ["tune", "probe", "draw"])
def test_where_to_write_is_checked_before_any_work(run: Run, command: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    (tmp_path / "folder.png").mkdir()
    data = () if command == "draw" else ("--data", "digits")
    for out, message in (("a_file/x.png", "'a_file/x.png' can't be written: "), ("folder.png", "is a folder; give a")):
        assert message in refused(run(command, "no_such:model", *data, "--out", out))


def test_a_place_that_cannot_be_written_is_reported_before_any_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``os.access``, which a read-only disk answers too, and which the tests' user may be above."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "run folder 'new/run' can't be written in '" in refused(run("train", "resnet18", *QUICK, "--out", "new/run"))
    assert "--out 'new/t.json' can't be written in '" in refused(
        run("tune", "resnet18", "--data", "digits", "--out", "new/t.json")
    )


def test_a_picture_that_fails_leaves_what_was_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def plot(*given: object) -> None:
        raise OSError(28, "No space left on device", "probe.png")

    monkeypatch.setattr("lowmode_fx.cli.tuning_tables.plot_probe", plot)
    quick = ("--data", "digits", "--image-size", "8", "--device", "cpu", "--steps", "1", "--batches", "2")
    outcome = run("probe", MODEL, *quick, "--pool-convs", "all", "--format", "csv", "--out", "probe.png")
    assert refused(outcome) == "error: 'probe.png': no space left on device"
    assert outcome.out.startswith("site,") and len(outcome.out.splitlines()) == 3


@pytest.mark.parametrize("command", ["report", "probe", "tune", "train"])
def test_ctrl_c_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    # Where the names are from last: a module that is first imported under a patch would keep it.
    for place in ("cli.tuning_run", "cli.models"):
        monkeypatch.setattr(f"lowmode_fx.{place}.create_model", interrupted)
    monkeypatch.setattr("lowmode_fx.train.data.load_data", interrupted)
    outcome = run(command, MODEL, *(() if command == "report" else QUICK[:4]))
    told = "interrupted; nothing was written" if command == "train" else "interrupted"
    assert outcome.status == 130 and outcome.error.splitlines()[-1] == told


def test_a_short_run_that_diverged_is_reported(run: Run, tmp_path: Path) -> None:
    quick = ("--data", "digits", "--image-size", "8", "--device", "cpu", "--lr", "1e20")
    message = "error: the short full run diverged: its loss was 2."
    assert refused(run("probe", MODEL, *quick, "--steps", "4", "--pool-convs", "all")).startswith(message)
    line = refused(run("tune", MODEL, *quick, "--epochs", "4", "--measure", "macs"))
    assert line.startswith(message) and line.endswith("give a smaller --lr")
    assert not (tmp_path / "tuned.json").exists()


def test_a_tuning_is_held_against_the_run(run: Run, tmp_path: Path) -> None:
    config = {"ratio": 2, "pool_convs": ["0"]}
    data = {"classes": list("0123456789"), "train_images": 1437, "image_shape": [3, 8, 8]}
    tuned = {"config": config, "schedule": {"kind": "bernoulli", "p": [1.0]}, "low_weight": 1.0, "epochs": 1, "time": 1}

    def train(model: str = MODEL, **changes: object) -> Outcome:
        measured = {"model": MODEL, "data": {**data, **changes}}
        (tmp_path / "tuned.json").write_text(json.dumps({**tuned, "measured_on": measured}))
        return run("train", model, *QUICK, "--tuned", "tuned.json", "--overwrite")

    assert train().status == 0
    start = "--tuned 'tuned.json' was measured on something else: "
    assert f"{start}model was 'training:tiny_model', and is 'resnet18'; tune again" in refused(train("resnet18"))
    assert f"{start}data.image_shape was [3, 16, 16], and is [3, 8, 8]" in refused(train(image_shape=[3, 16, 16]))
    assert f"{start}data.train_images was 5, and is 1437" in refused(train(train_images=5))


def test_a_failure_says_what_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(path: Path, text: str) -> None:
        if path.name == "metrics.csv" and (tmp_path / "run/checkpoint").exists():
            write_atomically(path, lambda temporary: os.write(os.open("/dev/full", os.O_WRONLY), b"x") and None)
        write_text(path, text)

    monkeypatch.setattr("lowmode_fx.train.run_folder.write_text", write)
    outcome = run("train", MODEL, *QUICK, "--out", "run")
    assert refused(outcome) == "error: 'run/metrics.csv': no space left on device"
    assert outcome.out.splitlines()[-1] == (
        "kept: the checkpoint of the last whole epoch; lowmode-fx train --resume run goes on from it"
    )
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "failed" and "No space left on device" in summary["reason"]
