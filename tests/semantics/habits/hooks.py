"""Hooks on modules: before and after the build, on the root and on convolutions, forwards and backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from semantics.habit import Kind, weighted
from semantics.skeleton import Small, conv

KIND = Kind("hooks", r"\bhook")


def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
    module.kept = output


def halve_input(module: nn.Module, inputs: Any) -> Any:
    return (inputs[0] / 2, *inputs[1:])


def double_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output * 2


def distilled(model: nn.Module, outputs: Any) -> Tensor:
    return weighted(model, outputs) + model.body.kept.square().mean()


@KIND.habit(loss=distilled, compiled=True)
def feature_kept_for_the_loss() -> nn.Module:
    """Distillation: a hook on a convolution keeps its output, and the loss reads it."""
    model = Small()
    model.body.register_forward_hook(keep)
    return model


def distil_later(model: nn.Module, step: int) -> None:
    if step == 0:
        model.body.register_forward_hook(keep)


@KIND.habit(each_step=distil_later, loss=distilled, compiled=True)
def feature_kept_by_a_hook_set_later() -> nn.Module:
    """The same hook, put there after the build."""
    return Small()


def told_elsewhere() -> tuple[Any, Any]:
    kept: dict[str, Tensor] = {}

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kept["body"] = output

    return kept, hook


def distilled_elsewhere(model: nn.Module, outputs: Any) -> Tensor:
    return weighted(model, outputs) + model.read()["body"].square().mean()


@KIND.habit(loss=distilled_elsewhere)
def feature_kept_outside_the_model() -> nn.Module:
    """The hook writes into a dict that the model does not hold."""
    model = Small()
    kept, hook = told_elsewhere()
    model.body.register_forward_hook(hook)
    model.read = lambda: kept
    return model


@KIND.habit(compiled=True)
def pre_hook_changes_the_input() -> nn.Module:
    model = Small()
    model.body.register_forward_pre_hook(halve_input)
    return model


@KIND.habit(compiled=True)
def hook_changes_the_output() -> nn.Module:
    model = Small()
    model.body.register_forward_hook(double_output)
    return model


@KIND.habit()
def pre_hook_of_the_root() -> nn.Module:
    model = Small()
    model.register_forward_pre_hook(halve_input)
    return model


@KIND.habit(compiled=True)
def hook_of_the_root() -> nn.Module:
    model = Small()
    model.register_forward_hook(double_output)
    return model


def hook_the_root(model: nn.Module, step: int) -> None:
    if step == 1:
        model.register_forward_hook(double_output)


@KIND.habit(each_step=hook_the_root, compiled=True)
def hook_of_the_root_set_later() -> nn.Module:
    return Small()


@KIND.habit(each_step=hook_the_root, through_net=True)
def hook_set_on_the_net() -> nn.Module:
    """The loop registers it on what it calls."""
    return Small()


def take_the_hook_away(model: nn.Module, step: int) -> None:
    if step == 1:
        model.remove_hook()


@KIND.habit(each_step=take_the_hook_away)
def hook_removed_later() -> nn.Module:
    model = Small()
    model.remove_hook = model.norm.register_forward_hook(double_output).remove
    return model


@KIND.habit()
def keyword_hook() -> nn.Module:
    """A pre-hook that is given keywords, and gives them."""
    model = Small()

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (args[0] + 0.1,), kwargs

    model.body.register_forward_pre_hook(hook, with_kwargs=True)
    return model


def scale_gradients(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return tuple(None if grad is None else grad * 3 for grad in inputs)


@KIND.habit(compiled=True)
def full_backward_hook() -> nn.Module:
    model = Small()
    model.body.register_full_backward_hook(scale_gradients)
    return model


@KIND.habit()
def backward_pre_hook() -> nn.Module:
    model = Small()
    model.norm.register_full_backward_pre_hook(lambda module, grads: tuple(grad * 3 for grad in grads))
    return model


def hook_backward(model: nn.Module, step: int) -> None:
    if step == 1:
        model.body.register_full_backward_hook(scale_gradients)


@KIND.habit(each_step=hook_backward, compiled=True)
def backward_hook_set_later() -> nn.Module:
    return Small()


@KIND.habit(compiled=True)
class HookedWhileItRuns(Small):
    """A hook is put on a layer in ``forward`` and taken away again: features by their names."""

    def between(self, maps: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = self.body.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            self.body(maps)
        finally:
            handle.remove()
        return maps + torch.tanh(seen[0])


@KIND.habit()
class LayersOfAList(Small):
    """Hooks on layers that a plain list holds beside the registry."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()
        self.order = [self.first, self.second]
        self.first.register_forward_hook(double_output)

    def between(self, maps: Tensor) -> Tensor:
        for layer in self.order:
            maps = layer(maps)
        return maps


def scale_gradient(grad: Tensor) -> Tensor:
    return grad * 0.1


@KIND.habit()
def gradients_scaled_at_the_parameters() -> nn.Module:
    """``Parameter.register_hook``, on every one of them."""
    model = Small()
    for parameter in model.parameters():
        parameter.register_hook(scale_gradient)
    return model


def hook_the_container(model: nn.Module, step: int = 0) -> None:
    if step == 0:
        model.stage.register_forward_pre_hook(halve_input)
        model.stage.register_forward_hook(double_output)
        model.stage.register_full_backward_hook(scale_gradients)


class InAContainer(Small):
    """A stage of several layers, which its container calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.Tanh())

    def between(self, maps: Tensor) -> Tensor:
        return self.stage(maps)


@KIND.habit(compiled=True)
def hooks_on_a_container() -> nn.Module:
    model = InAContainer()
    hook_the_container(model)
    return model


@KIND.habit(each_step=hook_the_container, compiled=True)
def hooks_on_a_container_set_later() -> nn.Module:
    return InAContainer()
