"""What a classifier is trained on: auxiliary heads known by what they are, and losses of other kinds."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs
from training import digits, quick_settings, tiny_model

from lowmode_fx import LowModeConfig, TrainStep, build_pair, gradient_agreement
from lowmode_fx.train import TrainSettings, train
from lowmode_fx.train.loss import balanced_weights, classification_loss, make_criterion
from lowmode_fx.train.outputs import logits_of
from lowmode_fx.tuning.tune import tune

torch.manual_seed(0)
LOGITS, AUX, OTHER, LABELS = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 9), torch.tensor([0, 1, 2, 3, 0, 1])
ALONE, HEAD = F.cross_entropy(LOGITS, LABELS), F.cross_entropy(AUX, LABELS)


@dataclass
class Answer:
    embedding: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    ("outputs", "right"),
    [
        (LOGITS, ALONE),
        ((LOGITS,), ALONE),
        ((LOGITS, AUX), ALONE + 0.3 * HEAD),
        ([LOGITS, AUX, AUX], ALONE + 0.6 * HEAD),
        (GoogLeNetOutputs(LOGITS, AUX, AUX), ALONE + 0.6 * HEAD),
        (GoogLeNetOutputs(LOGITS, None, None), ALONE),
        (InceptionOutputs(LOGITS, AUX), ALONE + 0.3 * HEAD),
        (OrderedDict(embedding=OTHER, logits=LOGITS, aux=AUX), ALONE + 0.3 * HEAD),
        ({"loss": torch.tensor(9.0), "logits": LOGITS}, ALONE),
        (Answer(OTHER, LOGITS), ALONE),
    ],
)
def test_heads_are_known_by_name_or_by_width(outputs: Any, right: Tensor) -> None:
    torch.testing.assert_close(classification_loss(outputs, LABELS), right)
    assert logits_of(outputs) is LOGITS


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ((LOGITS, OTHER), r"a tuple of \(6, 4\), \(6, 9\)"),
        ((OTHER, LOGITS), r"a tuple of \(6, 9\), \(6, 4\)"),
        ((LOGITS, [OTHER]), r"a tuple of \(6, 4\), list"),
        ((LOGITS, None), r"a tuple of \(6, 4\), NoneType"),
        ({"scores": LOGITS}, r"a dict of scores"),
        ((), "a tuple of "),
    ],
)
def test_what_is_not_known_is_refused_with_the_way_out(outputs: Any, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^model returns {told}.*give criterion='package\.module:callable'"):
        classification_loss(outputs, LABELS)


@pytest.mark.parametrize(
    ("aux", "told"),
    [
        (torch.tensor(0.5), r"a tensor of shape \(\)"),
        (OTHER, r"a tensor of shape \(6, 9\)"),
        (LABELS, r"a tensor of shape \(6,\)"),
        ([AUX, AUX], r"a list of \(6, 4\), \(6, 4\)"),
        (0.5, "a float"),
    ],
)
def test_an_auxiliary_output_that_is_no_head_is_named(aux: Any, told: str) -> None:
    outputs = {"logits": LOGITS, "aux": None, "aux_loss": aux}
    heads = r"and only outputs as wide as the logits \(6, 4\) are auxiliary heads; return the logits alone, or"
    with pytest.raises(ValueError, match=rf"^model returns 'aux_loss', {told}, {heads}"):
        classification_loss(outputs, LABELS)
    assert logits_of(outputs) is LOGITS  # an evaluation needs the logits alone


class LossInside(nn.Module):
    """Returns a scalar loss of its own beside its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_model()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.body(x)
        return {"logits": logits, "aux": logits.square().mean()}


def test_a_model_with_a_loss_of_its_own_is_refused_before_it_trains() -> None:
    with pytest.raises(ValueError, match=r"^model returns 'aux', a tensor of shape \(\), and only outputs as wide"):
        train(LossInside(), digits(), quick_settings(), quiet=True)


def test_soft_targets_are_what_timm_s_loss_makes_of_them() -> None:
    soft = torch.softmax(torch.randn(6, 4), 1)
    torch.testing.assert_close(classification_loss(LOGITS, soft), SoftTargetCrossEntropy()(LOGITS, soft))
    right = F.binary_cross_entropy_with_logits(LOGITS, soft)
    torch.testing.assert_close(make_criterion("bce")(LOGITS, soft), right)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_named_losses_by_hand(smoothing: float) -> None:
    target = F.one_hot(LABELS, 4) * (1 - smoothing) + smoothing / 4
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    log = LOGITS.log_softmax(1)
    right = -(target * log * weights).sum() / weights[LABELS].sum()
    found = make_criterion("cross_entropy", smoothing, weights.tolist())(LOGITS, LABELS)
    torch.testing.assert_close(found, right)
    each = -(target * LOGITS.sigmoid().log() + (1 - target) * (-LOGITS).sigmoid().log())
    found = make_criterion("bce", smoothing, weights.tolist())((LOGITS, AUX), LABELS)
    each_of_aux = -(target * AUX.sigmoid().log() + (1 - target) * (-AUX).sigmoid().log())
    torch.testing.assert_close(found, (weights * each).mean() + 0.3 * (weights * each_of_aux).mean())


def test_balanced_weights_by_hand() -> None:
    assert balanced_weights(torch.tensor([0, 0, 0, 1]), 2) == (round(4 / (2 * 3), 6), 4 / (2 * 1))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(
        "from torch import nn\n"
        "number = 3\n"
        "def logits_alone(outputs, labels):\n"
        "    return nn.functional.cross_entropy(outputs[0], labels)\n"
        "def makes():\n"
        "    return nn.CrossEntropyLoss()\n"
        "def fails(outputs, labels):\n"
        "    return {}['x']\n"
        "def nothing(outputs, labels):\n"
        "    pass\n"
        "def each(outputs, labels):\n"
        "    return nn.functional.cross_entropy(outputs, labels, reduction='none')\n"
        "def cut(outputs, labels):\n"
        "    return nn.functional.cross_entropy(outputs.detach(), labels)\n"
        "class Twice(nn.Module):\n"
        "    def forward(self, outputs, labels):\n"
        "        return 2 * logits_alone(outputs, labels)\n"
        "class Learns(Twice):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = nn.Linear(1, 1)\n"
        "class Wants(Twice):\n"
        "    def __init__(self, number):\n"
        "        super().__init__()\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.usefixtures("mine")
def test_a_loss_of_ones_own() -> None:
    with torch.no_grad():
        torch.testing.assert_close(make_criterion("my_losses:logits_alone")((LOGITS, OTHER), LABELS), ALONE)
        torch.testing.assert_close(make_criterion("my_losses:Twice")((LOGITS, OTHER), LABELS), 2 * ALONE)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "makes",
            r"failed on a model's outputs and labels of shape \(125,\) \(TypeError: makes\(\) takes 0",
        ),
        ("fails", r"failed on .* \(KeyError: 'x', at my_losses\.py:\d+ in fails\); give a callable of these two$"),
        ("nothing", r"returned a value of type NoneType; return a scalar tensor"),
        ("each", r"returned a tensor of shape \(125,\); return a scalar, such as its mean"),
        ("cut", r"returned a loss without a gradient; compute it from the outputs, not detached"),
    ],
)
def test_a_loss_of_ones_own_that_is_none_is_told_before_the_first_step(name: str, told: str) -> None:
    settings = quick_settings(epochs=1, criterion=f"my_losses:{name}")
    with pytest.raises((ValueError, TypeError), match=rf"^criterion my_losses:{name} {told}"):
        train(tiny_model(), digits(), settings, quiet=True)


def test_a_criterion_that_is_a_class_is_refused_everywhere() -> None:
    told = r"^criterion is the class CrossEntropyLoss; give an object of it, such as CrossEntropyLoss\(\)$"
    model, loss = tiny_model(), nn.CrossEntropyLoss
    batch = (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    pair = build_pair(model, batch[0], LowModeConfig(pool_convs="all"))
    with pytest.raises(TypeError, match=told):
        TrainStep(model, loss, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(TypeError, match=told):
        gradient_agreement(pair, batch, loss)
    with pytest.raises(TypeError, match=told):
        tune(model, [batch], epochs=1, criterion=loss)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("hinge", {}, "criterion='hinge' is unknown; give 'cross_entropy', 'bce' or package.module:callable"),
        ("my_losses:no", {}, "criterion my_losses:no can't be imported"),
        ("my_losses:number", {}, "criterion my_losses:number is of type int; give a callable"),
        ("my_losses:Learns", {}, "criterion my_losses:Learns has parameters, which train does not train"),
        ("my_losses:Wants", {}, "criterion my_losses:Wants can't be made without arguments"),
        ("my_losses:Twice", {"label_smoothing": 0.1}, "criterion my_losses:Twice takes no label smoothing"),
    ],
)
def test_losses_that_are_refused(name: str, options: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        make_criterion(name, **options)


class Both(nn.Module):
    """Logits and an embedding of 16 values."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.alone, self.body = alone, tiny_model(dropout=0.0)

    def forward(self, images: Tensor) -> Any:
        embedding = self.body[:-1](images)
        logits = self.body[-1](embedding)
        return logits if self.alone else (logits, embedding)


@pytest.mark.usefixtures("mine")
def test_a_run_with_a_loss_of_ones_own_is_that_of_the_logits_alone() -> None:
    settings = quick_settings(epochs=1)
    right = train(Both(True), digits(), settings, quiet=True)
    own = quick_settings(epochs=1, criterion="my_losses:logits_alone")
    found = train(Both(False), digits(), own, quiet=True)
    assert [record.train_loss for record in found.records] == [record.train_loss for record in right.records]
    assert found.final_accuracy == right.final_accuracy
    with pytest.raises(ValueError, match=r"model returns a tuple of \(125, 10\), \(125, 16\)"):
        train(Both(False), digits(), settings, quiet=True)


def test_class_weights_are_one_for_each_class() -> None:
    told = r"^class_weights=\(1.0, 2.0\) is not one weight for each of the 10 outputs and of the 10 classes"
    with pytest.raises(ValueError, match=told):
        train(tiny_model(), digits(), quick_settings(class_weights=(1, 2)), quiet=True)
    assert TrainSettings(class_weights="balanced").to_dict()["class_weights"] == "balanced"
    assert "class_weights" not in TrainSettings().trajectory() and "criterion" not in TrainSettings().trajectory()
    assert TrainSettings(class_weights=[1, 2]).trajectory()["class_weights"] == [1.0, 2.0]


def test_images_with_other_channels_than_the_model_takes() -> None:
    told = r"^images have 3 channels, but the model takes 12; build the model with in_chans=3$"
    with pytest.raises(ValueError, match=told):
        train(tiny_model(in_chans=12), digits(), quick_settings(epochs=1), quiet=True)
