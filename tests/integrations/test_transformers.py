"""transformers: fit, accumulation, bf16, resume, evaluation, compile with ``Trainer(model=net)``."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader, Dataset
from trainers import IMAGES, LABELS, LOW_FIRST, SCHEDULE, STEPS, assert_same, cost_cosine

from lowmode_fx import LowModeModel, build_pair, cost_progress
from tests.runtime.recorder import Recorder

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lowmode-fx[transformers]'")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'lowmode-fx[transformers]'")

from accelerate import Accelerator
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments

from lowmode_fx.integrations.accelerate import captured_step, prepare
from lowmode_fx.integrations.transformers import LowModeCallback

pytestmark = pytest.mark.usefixtures("one_thread")


class Samples(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": IMAGES[index], "labels": LABELS[index]}


#: Else the model finds out in its first forward, and is compiled again, as without us.
KIND = "single_label_classification"


def network() -> Any:
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", num_labels=5, problem_type=KIND))


def make(**options: Any) -> LowModeModel:
    pair = build_pair(network(), {"pixel_values": IMAGES[:8], "labels": LABELS[:8]})
    return LowModeModel(pair, SCHEDULE, **{"compile": False, **options}).train()


def trainer(
    net: Any, folder: Path, modes: list[str] | None = None, optimizers: Any = (None, None), **options: Any
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, num_train_epochs=2,
        per_device_train_batch_size=8, lr_scheduler_type="constant",
        **{"save_strategy": "no", "logging_steps": 2, **options},
    )  # fmt: skip
    if modes is not None:
        net.register_forward_hook(lambda model, args, output: _note(model, net, modes))
    data = {"train_dataset": Samples(), "eval_dataset": Samples(), "optimizers": optimizers}
    return Trainer(model=net, args=arguments, callbacks=[LowModeCallback()], **data)


def _note(model: Any, net: LowModeModel, modes: list[str]) -> None:
    if model.training:
        modes.append(str(net.last_mode))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_in_the_modes_of_the_schedule(tmp_path: Path, accumulation: int) -> None:
    net, modes = make(), []  # type: ignore[var-annotated]
    ours = trainer(net, tmp_path, modes, gradient_accumulation_steps=accumulation)
    ours.train()
    steps = 8 // accumulation
    assert modes == [SCHEDULE.mode(step, 0).value for step in range(steps) for _ in range(accumulation)]
    assert net.step == steps and net.epoch == 1
    shares = [log["low_steps"] for log in ours.state.log_history if "low_steps" in log]
    assert sum(shares) * 2 == pytest.approx(sum(SCHEDULE.mode(step, 0).value == "low" for step in range(steps)))


def test_a_rate_over_the_cost(tmp_path: Path) -> None:
    pair = build_pair(network(), {"pixel_values": IMAGES[:8], "labels": LABELS[:8]})
    net = LowModeModel(pair, LOW_FIRST, compile=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ours = trainer(net, tmp_path, optimizers=(optimizer, cost_cosine(net, optimizer)), logging_steps=1)
    ours.train()
    told = [log["learning_rate"] for log in ours.state.log_history if "learning_rate" in log]
    assert told == pytest.approx(_expected_rates(net))


def _expected_rates(net: LowModeModel) -> list[float]:
    """Of each step; when half of the steps have been taken, less of the cost has passed."""
    low = cost_progress(net, 2, STEPS)[1]
    assert low < 0.4
    passed = [low * n / STEPS for n in range(STEPS)] + [low + (1 - low) * n / STEPS for n in range(STEPS)]
    return [0.05 * (1 + math.cos(math.pi * each)) for each in passed]


def test_full_mode_trains_as_the_model_does(tmp_path: Path) -> None:
    from lowmode_fx import BernoulliSchedule

    net, plain = make(), network()
    net.schedule = BernoulliSchedule(p=0.0)
    trainer(net, tmp_path).train()
    Trainer(model=plain, args=trainer(net, tmp_path).args, train_dataset=Samples()).train()
    assert_same(net.state_dict(), plain.state_dict())


def test_evaluation_has_a_loss_and_is_the_models(tmp_path: Path) -> None:
    net = make()
    found = trainer(net, tmp_path).evaluate()
    with torch.no_grad():
        expected = network().eval()(pixel_values=IMAGES, labels=LABELS).loss
    assert found["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_an_average_kept_by_a_callback_runs_in_full_mode_and_counts_nothing(tmp_path: Path) -> None:
    class Average(TrainerCallback):
        def __init__(self, net: LowModeModel) -> None:
            self.average, self.by_hand = AveragedModel(net), [value.detach().clone() for value in net.parameters()]
            self.count = 0

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            self.average.update_parameters(model)
            self.count += 1
            for mean, value in zip(self.by_hand, model.parameters(), strict=True):
                mean.add_((value.detach() - mean) / self.count)

    net, modes = make(), []  # type: ignore[var-annotated]
    ours, kept = trainer(net, tmp_path, modes), Average(net)
    ours.add_callback(kept)
    ours.train()
    assert modes == [SCHEDULE.mode(step, 0).value for step in range(8)] and net.step == 8
    assert kept.average.module.is_copy and kept.average.module.step == 0
    for mean, value in zip(kept.by_hand, kept.average.module.parameters(), strict=True):
        torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-6)
    plain = network()
    plain.load_state_dict(kept.average.module.state_dict(), strict=True)
    update_bn([IMAGES], plain.train())
    update_bn([IMAGES], kept.average.module.train())
    assert kept.average.module.step == 0
    for value, expected in zip(kept.average.module.buffers(), plain.buffers(), strict=True):
        assert torch.equal(value, expected)


def test_bf16_trains(tmp_path: Path) -> None:
    net, modes = make(), []  # type: ignore[var-annotated]
    trainer(net, tmp_path, modes, bf16=True).train()
    assert modes == [SCHEDULE.mode(step, 0).value for step in range(8)]


def test_a_resumed_run_is_the_whole_run_and_from_pretrained_reads_it(tmp_path: Path) -> None:
    whole, first, second = make(), make(), make()
    modes: tuple[list[str], ...] = ([], [], [])
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer(whole, tmp_path / "whole", modes[0]).train()
    trainer(first, tmp_path / "half", modes[1], **saving, max_steps=3).train()
    again = trainer(second, tmp_path / "half", modes[2])
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-3"))
    assert modes[1] + modes[2] == modes[0] and second.step == 8
    assert_same(second.state_dict(), whole.state_dict())
    read = ResNetForImageClassification.from_pretrained(tmp_path / "half" / "checkpoint-3")
    assert_same(read.state_dict(), first.state_dict())
    second.save_pretrained(tmp_path / "end")
    assert_same(ResNetForImageClassification.from_pretrained(tmp_path / "end").state_dict(), second.state_dict())


def test_evaluations_before_and_between_steps_and_the_best_model(tmp_path: Path) -> None:
    net, modes = make(), []  # type: ignore[var-annotated]
    every = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "save_total_limit": 1}
    ours = trainer(net, tmp_path, modes, eval_on_start=True, **every, **best)
    ours.train()
    assert modes == [SCHEDULE.mode(step, 0).value for step in range(8)] and net.step == 8
    read = ResNetForImageClassification.from_pretrained(ours.state.best_model_checkpoint)
    assert_same(net.state_dict(), read.state_dict())


def test_a_resume_that_lost_the_schedule_says_so(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    Trainer(network(), trainer(make(), tmp_path, **saving).args, train_dataset=Samples()).train()
    with pytest.warns(UserWarning, match="the optimizer resumes but the schedule starts at step 0"):
        trainer(make(), tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_the_callback_it_trains_and_what_is_missing_is_told(tmp_path: Path, accumulation: int) -> None:
    net, modes = make(), []  # type: ignore[var-annotated]
    ours = trainer(net, tmp_path, modes, gradient_accumulation_steps=accumulation)
    ours.remove_callback(LowModeCallback)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ours.train()
    assert sum("net.attach" in str(each.message) for each in found) == accumulation - 1
    due = [SCHEDULE.mode(number // accumulation, 0).value for number in range(8)]
    assert modes[accumulation:] == due[accumulation:] and net.step == 8 // accumulation


def test_its_compile_option_compiles_each_mode_once(tmp_path: Path) -> None:
    torch._dynamo.reset()
    net = make()
    torch._dynamo.utils.counters.clear()
    trainer(net, tmp_path, torch_compile=True, torch_compile_backend="eager").train()
    assert net.step == 8
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    torch._dynamo.reset()


def test_its_models_take_whole_steps_in_a_loop_with_accelerate() -> None:
    trained = []
    for recorder in (Recorder(), None):
        accelerator, net = Accelerator(cpu=True), make()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.125, fused=True)
        prepared, optimizer, batches = prepare(accelerator, net, optimizer, DataLoader(Samples(), batch_size=8))
        if recorder is not None:
            step = captured_step(accelerator, prepared, lambda output, _: output.loss, optimizer, graphs=recorder)
        for batch in [batch for _ in range(4) for batch in batches]:
            if recorder is not None:
                step(batch)
            else:
                accelerator.backward(prepared(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
        assert recorder is None or (step.uncaptured is None and recorder.replays > 8)
        trained.append(net)
    assert_same(trained[0].state_dict(), trained[1].state_dict())
