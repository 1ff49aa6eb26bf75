"""Recipes are short, and cost a script that trains without us five lines."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import torch
from pages import PAGES, ROOT, blocks

RECIPES = [(page, place, code) for page, text in PAGES.items() for place, code in enumerate(blocks(text, "python"))]

PLAIN = {
    "lightning": """\
import lightning, timm, torch
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = timm.create_model("resnet10t", num_classes=10)

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


data = TensorDataset(torch.randn(8, 3, 96, 96), torch.randint(0, 10, (8,)))
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
trainer.fit(Classifier(), DataLoader(data, batch_size=4))  # ckpt_path= resumes with the same modes
""",
    "accelerate": """\
import timm, torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

net = timm.create_model("resnet10t", num_classes=10)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
data = TensorDataset(torch.randn(8, 3, 96, 96), torch.randint(0, 10, (8,)))
accelerator = Accelerator(cpu=True)
model, optimizer, loader = accelerator.prepare(net, optimizer, DataLoader(data, batch_size=4))
for epoch in range(2):
    for images, labels in loader:
        accelerator.backward(torch.nn.functional.cross_entropy(model(images), labels))
        optimizer.step()
        optimizer.zero_grad()
""",
    "transformers": """\
import tempfile, torch
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
config = ResNetConfig(layer_type="basic", num_labels=10, **sizes)
batch = {"pixel_values": torch.randn(4, 3, 32, 32), "labels": torch.randint(0, 10, (4,))}
net = ResNetForImageClassification(config)
samples = [{name: value[i] for name, value in batch.items()} for i in range(4)]
folder = tempfile.mkdtemp()
quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True}
args = TrainingArguments(folder, max_steps=2, use_cpu=True, **quiet)
Trainer(net, args, train_dataset=samples).train()
net.save_pretrained(folder)  # as the model itself, for from_pretrained
""",
}


def changed(before: str, after: str) -> list[str]:
    """The lines of ``after`` that ``before`` has not, empty ones aside."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line[2:] for line in lines if line.startswith("+ ") and line[2:].strip()]


@pytest.mark.parametrize(("page", "place", "code"), RECIPES, ids=lambda value: str(value)[:24])
def test_a_recipe_has_fewer_than_thirty_lines(page: str, place: int, code: str) -> None:
    assert len(code.splitlines()) < 30


@pytest.mark.parametrize("trainer", ["lightning", "accelerate", "transformers"])
def test_a_trainer_costs_five_lines(trainer: str) -> None:
    plain, ours = PLAIN[trainer], blocks(PAGES[f"docs/train/{trainer}.md"], "python")[0]
    assert "lowmode" not in plain.lower()
    assert 3 < len(changed(plain, ours)) <= 5


@pytest.mark.parametrize("trainer", ["lightning", "accelerate", "transformers"])
@pytest.mark.usefixtures("one_thread")
def test_what_is_compared_with_trains(trainer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip(trainer, reason=f"{trainer} is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(PLAIN[trainer], trainer, "exec"), {})


def test_the_patch_of_timms_script_adds_a_dozen_lines() -> None:
    lines = (ROOT / "examples/timm_train.diff").read_text().splitlines()
    added = [line for line in lines if line.startswith("+") and not line.startswith("+++") and line != "+"]
    assert 0 < len(added) <= 12
    assert not any(line.startswith("-") and not line.startswith("---") for line in lines)
