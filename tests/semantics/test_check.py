"""The checks themselves: a net that is right passes the whole corpus, and each kind of fault is found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from oracle import EagerLowMode
from torch import nn

from lowmode_fx import downsample
from semantics import check
from semantics.habit import Habit
from semantics.habits import CORPUS
from semantics.state import REGISTRIES, freeze, holds_graph
from semantics.truth import RATIO, LowTruth, shadow_of

NAMED = {str(habit): habit for habit in CORPUS}


def halved(images: torch.Tensor) -> torch.Tensor:
    return downsample(images, RATIO)


class Reference:
    """A net without the product: the model itself in full steps, the truth in low ones, seen through to the model."""

    def __init__(self, model: nn.Module, habit: Habit, schedule: Any, options: dict[str, Any]) -> None:
        inner = model if habit.submodule is None else model.get_submodule(habit.submodule)
        images = (habit.example or habit.given)(0).images
        truth = LowTruth(inner, halved, images, bool(habit.config.get("restore_output")))
        vars(self).update(model=inner, truth=truth, low=schedule.mode(1, 0).value == "low")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.low and self.model.training):
            return self.model(*args, **kwargs)
        outputs = self.truth(*args, **kwargs)
        for ours, shadow in zip(self.model.modules(), self.truth.shadow.modules(), strict=False):
            for name, value in vars(shadow).items():
                if name not in REGISTRIES and holds_graph(freeze(value)):  # an output by another door
                    vars(ours)[name] = value
        return outputs

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """All its steps have one mode: there is nothing to count."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.model, name, value)


@pytest.mark.slow
@pytest.mark.parametrize("checked", ["full", "low"])
@pytest.mark.parametrize("habit", CORPUS, ids=str)
def test_all_of_it_can_be_right(habit: Habit, checked: str) -> None:
    if not habit.takes(checked) or "lazy" in habit.name:
        pytest.skip("there is no right value")
    assert check.CHECKS[checked](habit, Reference) == check.Verdict("right")


# Faults ---------------------------------------------------------------------------------------------------------------


class TracedForward(Reference):
    """Runs ``forward`` past the hooks."""

    def __call__(self, *args: Any) -> Any:
        return self.model.forward(*args)


class TouchesTheModel(Reference):
    def __init__(self, model: nn.Module, *rest: Any) -> None:
        super().__init__(model, *rest)
        model.norm.running_mean.add_(1)


class Draws(Reference):
    def __call__(self, *args: Any) -> Any:
        torch.rand(1)
        return super().__call__(*args)


class OwnWeights(Reference):
    """Trains a copy."""

    def __init__(self, model: nn.Module, *rest: Any) -> None:
        super().__init__(copy.deepcopy(model), *rest)


class FrozenOutside(Reference):
    """Goes on as the model was when the net was made."""

    def __init__(self, model: nn.Module, *rest: Any) -> None:
        super().__init__(model, *rest)
        vars(self)["was"] = {"temperature": model.temperature}

    def __call__(self, *args: Any) -> Any:
        vars(self.model).update(self.was)
        return super().__call__(*args)


class LeavesTraces(Reference):
    """Low steps on the model itself."""

    def __call__(self, *args: Any) -> Any:
        if not (self.low and self.model.training):
            return self.model(*args)
        with EagerLowMode(RATIO, leaves=False):
            return self.model(halved(*args))


class LeavesAttributes(Reference):
    def __call__(self, *args: Any) -> Any:
        self.model.calls += self.low
        return super().__call__(*args)


class PoolsAll(Reference):
    """Every kernel is averaged, trained or not."""

    def __call__(self, *args: Any) -> Any:
        if not (self.low and self.model.training):
            return self.model(*args)
        with EagerLowMode(RATIO, leaves=False):
            return shadow_of(self.model)(halved(*args))


class WithoutDownsampling(Reference):
    def __call__(self, *args: Any) -> Any:
        return self.model(*args)


class LowInEvaluation(Reference):
    def __call__(self, *args: Any) -> Any:
        return self.truth(*args) if self.model.training else self.model(halved(*args))


class OtherKind(Reference):
    def __call__(self, *args: Any) -> Any:
        return dict(super().__call__(*args))


FAULTS: list[tuple[str, str, type[Reference], str]] = [
    ("full", "hooks/hook_of_the_root", TracedForward, "full step 0: outputs"),
    ("full", "plain/smallest", TouchesTheModel, "the build has changed the model: norm.running_mean"),
    ("full", "plain/smallest", Draws, "full step 0: world.torch's generator"),
    ("full", "plain/smallest", OwnWeights, "full step 0: gradients"),
    ("full", "outside/temperature", FrozenOutside, "full step 1: outputs"),
    ("full", "outputs/model_outputs", OtherKind, "full step 0: outputs: dict"),
    ("low", "buffers/moved_in_place", LeavesTraces, "a low step has left: centre"),
    ("low", "counters/counted_in_python", LeavesAttributes, "a low step has left: calls"),
    ("low", "fixed_kernels/sobel_in_a_buffer", PoolsAll, "low step 0: outputs"),
    ("low", "backwards/convolution_inside_a_function", PoolsAll, "low step 0: outputs"),
    ("low", "plain/smallest", WithoutDownsampling, "a low step has left: norm.running_mean"),
    ("low", "plain/smallest", LowInEvaluation, "in eval mode afterwards: outputs"),
]


@pytest.mark.parametrize(("checked", "name", "fault", "told"), FAULTS)
def test_a_fault_is_found(checked: str, name: str, fault: type[Reference], told: str) -> None:
    found = check.CHECKS[checked](NAMED[name], fault)
    assert (found.word, found.why[: len(told)]) == ("wrong", told)


def refusing(message: str, kind: type[Exception] = ValueError, touch: bool = False) -> check.Product:
    def make_net(model: nn.Module, *rest: Any) -> nn.Module:
        if touch:
            model.touched = True
        raise kind(message)

    return make_net


REFUSALS: list[tuple[check.Product, str, str]] = [
    (refusing("forward hooks are not followed"), "refused", "the build: ValueError: forward hooks"),
    (refusing("forward hooks are not followed", TypeError), "refused", "the build: TypeError: forward hooks"),
    (refusing("this does not work"), "wrong", "the build, refused without a word of the cause"),
    (refusing("forward hooks\nare not followed"), "wrong", "the build, refused without a word of the cause"),
    (refusing("forward hooks are not followed", RuntimeError), "wrong", "the build: RuntimeError"),
    (refusing("forward hooks are not followed", touch=True), "wrong", "the build has changed the model: touched"),
]


@pytest.mark.parametrize(("make_net", "word", "told"), REFUSALS)
def test_a_refusal_names_the_cause_in_one_line(make_net: check.Product, word: str, told: str) -> None:
    found = check.full(NAMED["hooks/hook_of_the_root"], make_net)
    assert (found.word, found.why[: len(told)]) == (word, told)


def test_where_refusing_is_no_answer() -> None:
    found = check.full(NAMED["plain/smallest"], refusing("no"))
    assert (found.word, found.why) == ("wrong", "the build, refused where that is no answer: ValueError: no")


def test_a_refusal_in_a_step_counts_too() -> None:
    class Late(Reference):
        def __call__(self, *args: Any) -> Any:
            raise ValueError("the hook that was set later is not followed; build the pair again")

    assert check.full(NAMED["hooks/hook_of_the_root_set_later"], Late).word == "refused"
