"""What is done to a model once its net is built: full steps stay the model's own, low ones those of a pair of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules_qat
from torch.func import functional_call, grad, vmap
from torch.nn.utils import fuse_conv_bn_eval, parametrizations, prune

from lowmode_fx import LowModeConfig, LowModeModel, Mode, PeriodicSchedule, build_pair
from passes.preserve import copy_apart

CONFIG = LowModeConfig(pool_convs="all")
IMAGES, LABELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0])


def model(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def net_of(module: nn.Module, images: Tensor = IMAGES, **options: Any) -> LowModeModel:
    return LowModeModel(
        build_pair(module, images, CONFIG), PeriodicSchedule(2), **{"compile": False, **options}
    ).train()


def a_step(run: Callable[[Tensor], Tensor], module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Output and gradients of one step, and the buffers after it."""
    module.zero_grad()
    output = run(images)
    F.cross_entropy(output.float(), LABELS).backward()
    gradients = {f"{name}.grad": value.grad for name, value in module.named_parameters() if value.grad is not None}
    return {"output": output.detach(), **gradients, **{name: value.clone() for name, value in module.named_buffers()}}


def check_as_the_model(net: LowModeModel, images: Tensor = IMAGES, exact: bool = True) -> None:
    """A full step is the changed model's own; a low one that of a net built from it, layers frozen only after that.

    For what is pooled is decided by the build, and kernels that don't train then are not.
    """
    module = net.ladder.model
    plain = copy_apart(module, module)
    anew = net_of(copy_apart(module, module).requires_grad_(True), images)
    for ours, theirs in zip(anew.ladder.model.modules(), module.modules(), strict=True):
        ours.training = theirs.training
    for ours, theirs in zip(anew.parameters(), module.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    for mode, right_run, owner in (
        (Mode.FULL, plain, plain),
        (Mode.LOW, lambda batch: anew.run(Mode.LOW, batch), anew.ladder.model),
    ):
        found = a_step(lambda batch, mode=mode: net.run(mode, batch), module, images)
        right = a_step(right_run, owner, images)
        assert found.keys() == right.keys()
        for name in right:
            assert found[name].dtype == right[name].dtype, name
            if exact:
                assert torch.equal(found[name], right[name]), (mode, name)
            else:
                torch.testing.assert_close(found[name], right[name])
        if mode is Mode.FULL:  # which moved the running statistics: the low step starts from the same
            anew.ladder.model.load_state_dict(plain.state_dict())


def to_double(net: LowModeModel) -> Tensor:
    net.double()
    return IMAGES.double()


def to_bfloat16(net: LowModeModel) -> Tensor:
    net.to(torch.bfloat16)
    return IMAGES.bfloat16()


def norms_stay_float32(net: LowModeModel) -> Tensor:
    net.half()
    net.ladder.model[1].float()
    net.ladder.model[1].register_forward_pre_hook(lambda module, args: (args[0].float(),))
    net.ladder.model[1].register_forward_hook(lambda module, args, output: output.half())
    return IMAGES.half()


def channels_last(net: LowModeModel) -> Tensor:
    net.to(memory_format=torch.channels_last)
    return IMAGES.to(memory_format=torch.channels_last)


def freeze_a_layer(net: LowModeModel) -> Tensor:
    net.ladder.model[0].requires_grad_(False)
    return IMAGES


def freeze_and_unfreeze(net: LowModeModel) -> Tensor:
    net.requires_grad_(False)
    net.run(Mode.LOW, IMAGES)
    net.ladder.model[3:].requires_grad_(True)
    return IMAGES


def norms_in_eval_mode(net: LowModeModel) -> Tensor:
    net.ladder.model[1].eval()
    return IMAGES


def replace_the_head(net: LowModeModel) -> Tensor:
    net.ladder.model[7] = nn.Linear(8, 5)
    return IMAGES


def replace_a_convolution(net: LowModeModel) -> Tensor:
    net.ladder.model[3] = nn.Conv2d(8, 8, 3, padding=1)
    return IMAGES


def replace_a_weight(net: LowModeModel) -> Tensor:
    net.ladder.model[3].weight = nn.Parameter(torch.randn(8, 8, 5, 5) / 10)
    return IMAGES


def replace_the_norm(net: LowModeModel) -> Tensor:
    net.ladder.model[1] = nn.GroupNorm(2, 8)
    return IMAGES


def prune_a_layer(net: LowModeModel) -> Tensor:
    prune.l1_unstructured(net.ladder.model[3], "weight", amount=0.5)
    return IMAGES


def prune_for_good(net: LowModeModel) -> Tensor:
    prune.ln_structured(net.ladder.model[3], "weight", amount=0.5, n=2, dim=0)
    prune.remove(net.ladder.model[3], "weight")
    return IMAGES


def mask_by_hand(net: LowModeModel) -> Tensor:
    with torch.no_grad():
        net.ladder.model[3].weight.mul_(torch.rand(8, 8, 5, 5) > 0.5)
    return IMAGES


def spectral_norm(net: LowModeModel) -> Tensor:
    parametrizations.weight_norm(net.ladder.model[3])
    return IMAGES


def a_larger_batch(net: LowModeModel) -> Tensor:
    return IMAGES.repeat(1, 1, 2, 2)


CHANGES = [
    to_double,
    to_bfloat16,
    norms_stay_float32,
    channels_last,
    freeze_a_layer,
    freeze_and_unfreeze,
    norms_in_eval_mode,
    replace_the_head,
    replace_a_convolution,
    replace_a_weight,
    replace_the_norm,
    prune_a_layer,
    prune_for_good,
    mask_by_hand,
    spectral_norm,
    a_larger_batch,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__)
@pytest.mark.filterwarnings("ignore::lowmode_fx.lowering.live.lookup.LiveLoweringWarning")
def test_a_net_follows_its_model(change: Callable[[LowModeModel], Tensor]) -> None:
    net = net_of(model())
    for mode in (Mode.FULL, Mode.LOW):  # what the build has prepared was in use before
        net.run(mode, IMAGES).sum().backward()
    check_as_the_model(net, change(net))


@pytest.mark.slow
@pytest.mark.parametrize("change", [to_double, freeze_and_unfreeze, replace_the_head, prune_a_layer, channels_last])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_net_follows_its_model(change: Callable[[LowModeModel], Tensor]) -> None:
    net = net_of(model(), compile=True, compile_options={"backend": "aot_eager"})
    for mode in (Mode.FULL, Mode.LOW):
        net.run(mode, IMAGES).sum().backward()
    check_as_the_model(net, change(net), exact=False)


def test_another_default_dtype() -> None:
    """Constants that low-mode makes have the images' dtype, whatever the default is."""
    net = net_of(model())
    torch.set_default_dtype(torch.float64)
    try:
        check_as_the_model(net)
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_default_device() -> None:
    """Nothing that low-mode makes lands on torch's default device: on the meta device it would have no values."""
    net = net_of(model())
    right = {
        mode: a_step(lambda batch, mode=mode: net.run(mode, batch), net.ladder.model, IMAGES) for mode in net.modes
    }
    net = net_of(model())
    with torch.device("meta"):
        found = {
            mode: a_step(lambda batch, mode=mode: net.run(mode, batch), net.ladder.model, IMAGES) for mode in net.modes
        }
    for mode, values in right.items():
        assert all(torch.equal(value, found[mode][name]) for name, value in values.items())


def test_on_the_meta_device() -> None:
    """Another device than that of the build: here the one that every machine has."""
    net = net_of(model())
    right = {
        mode: a_step(lambda batch, mode=mode: net.run(mode, batch), net.ladder.model, IMAGES) for mode in net.modes
    }
    net.to("meta")
    for mode, values in right.items():
        net.zero_grad()
        output = net.run(mode, IMAGES.to("meta"))
        output.sum().backward()
        assert output.is_meta and output.shape == values["output"].shape
        assert all(value.grad is not None and value.grad.is_meta for value in net.parameters())


def trained() -> LowModeModel:
    net = net_of(model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(IMAGES), LABELS).backward()
        optimizer.step()
    return net


def test_a_trained_model_is_fused_and_exported() -> None:
    net = trained().eval()
    plain = copy.deepcopy(net.ladder.model)
    right = plain(IMAGES)
    torch.testing.assert_close(net(IMAGES), right, rtol=0, atol=0)
    exported = torch.export.export(net.ladder.model, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), right)
    exported = torch.export.export(net, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), right)
    fused = nn.Sequential(fuse_conv_bn_eval(net.ladder.model[0], net.ladder.model[1]), *list(net.ladder.model)[2:])
    torch.testing.assert_close(fused(IMAGES), right)


def test_layers_fused_for_quantised_training() -> None:
    """Convolution and norm become one module: a layer that the build has not seen."""
    net = net_of(model())
    fuse_modules_qat(net.ladder.model.train(), [["0", "1", "2"]], inplace=True)
    plain = copy.deepcopy(net.ladder.model)
    found = a_step(lambda batch: net.run(Mode.FULL, batch), net.ladder.model, IMAGES)
    right = a_step(plain, plain, IMAGES)
    assert all(torch.equal(found[name], value) for name, value in right.items())


def test_onnx_of_a_trained_model(tmp_path: Any) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = trained().eval()
    torch.onnx.export(net.ladder.model, (IMAGES,), str(tmp_path / "net.onnx"), dynamo=True)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(IMAGES), rtol=1e-4, atol=1e-5)


def other_weights(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(value.shape, generator=generator) / 5 for name, value in module.named_parameters()}


@pytest.mark.parametrize("training", [False, True])
def test_functional_call_of_the_net(training: bool) -> None:
    """Other weights for one call, in the mode of the step: the net's own stay."""
    net = net_of(model(lambda channels: nn.GroupNorm(2, channels))).train(training)
    weights = other_weights(net)
    changed = copy.deepcopy(net.ladder.model)
    changed.load_state_dict(weights)
    anew = net_of(changed).train(training)
    before = copy.deepcopy(net.state_dict())
    for _ in range(2):  # a full and a low step
        found = functional_call(net, weights, (IMAGES,))
        assert torch.equal(found, anew(IMAGES)) and net.last_mode is anew.last_mode
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_gradients_of_each_sample() -> None:
    """By vmap over a functional call, in each mode, against one backward pass a sample."""
    net = net_of(model(lambda channels: nn.GroupNorm(2, channels)))
    weights = {name: value.detach() for name, value in net.named_parameters()}
    for mode in (Mode.FULL, Mode.LOW):

        class InMode(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = net.ladder.model

            def forward(self, images: Tensor, mode: Mode = mode) -> Tensor:
                return net.run(mode, images)

        caller = InMode()

        def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor, caller: nn.Module = caller) -> Tensor:
            named = {f"inner.{name}": value for name, value in weights.items()}
            return F.cross_entropy(functional_call(caller, named, (image[None],)), label[None])

        found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, IMAGES, LABELS)
        for place, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            net.zero_grad()
            F.cross_entropy(net.run(mode, image[None]), label[None]).backward()
            for name, value in net.named_parameters():
                torch.testing.assert_close(found[name][place], value.grad, rtol=1e-4, atol=1e-6)
