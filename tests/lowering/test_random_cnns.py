"""The invariants of a pair, over whole random CNNs.

The expected low-mode comes from ``oracle.EagerLowMode``: the original module run eagerly, its conv calls replaced one
by one as they happen, with kernels pooled by naive loops.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import EagerLowMode, RecordConvShapes
from oracle_kernels import naive_kernel_gradient
from spec_modules import build_cnn, draw_images
from specs import CNNSpec, ConvSpec, TiedSpec, UnitSpec, convs_of
from strategies import cnn_specs, low_mode_kwargs
from torch import Tensor, nn
from torch.func import functional_call

from lowmode_fx import LowModeConfig, ModePair, build_pair

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("error::lowmode_fx.NoEffectWarning"),
]

quick = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
thorough = settings(parent=quick, derandomize=False)

Kwargs = dict[str, Any]


DEFAULTS: Kwargs = {
    "ratio": 2,
    "kernel_ratio": None,
    "rounding": "ceil",
    "kernel_transform": "avg",
    "gain": "mean",
    "batchnorm": "isolate",
    "pool_convs": "dense",
    "drop_maxpools": "none",
}


@dataclass(frozen=True)
class Case:
    """A drawn model's pair, and a copy of the model from before it was made."""

    spec: CNNSpec
    kwargs: Kwargs
    original: nn.Module
    pair: ModePair

    def images(self, ratio: int | None = None) -> Tensor:
        """Low-mode images, or those of another ratio."""
        return draw_images(self.spec, self.kwargs["ratio"] if ratio is None else ratio)


def make_case(spec: CNNSpec, kwargs: Kwargs) -> Case:
    model = build_cnn(spec)
    original = deepcopy(model)
    pair = build_pair(model, draw_images(spec), LowModeConfig(**kwargs))
    assert pair.model is model and model.training
    assert_same_state(model.state_dict(), original.state_dict())
    return Case(spec, kwargs, original, pair)


def chain_of(convs: list[ConvSpec], activation: str = "silu") -> CNNSpec:
    """One conv after the other on signals of 96 samples."""
    units = tuple(UnitSpec(conv, activation=activation) for conv in convs)
    return CNNSpec((units,), convs[0].inputs, convs[-1].outputs, classes=2, size=(96,), head="mean", seed=0)


def gradients(module: nn.Module, output: Tensor) -> dict[str, Tensor | None]:
    """The gradient of a fixed weighted sum of ``output`` for each parameter."""
    module.zero_grad()
    (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


# The invariants, each as a check of one drawn pair -------------------------------------------------------------------


def check_full_is_the_model(case: Case) -> None:
    """Invariant 1: outputs, gradients and buffers of ``pair.full``, bit by bit."""
    model, original, images = case.pair.model, deepcopy(case.original), case.images(1)
    output, expected = case.pair.full(images), original(images)
    assert torch.equal(output, expected)
    ours, theirs = gradients(model, output), gradients(original, expected)
    for name, gradient in theirs.items():
        assert gradient is not None, f"{name} gets no gradient in the original, so nothing is compared"
        assert torch.equal(ours[name], gradient), name  # type: ignore[arg-type]
    assert_same_state(model.state_dict(), original.state_dict())


def check_parameters_are_shared(case: Case) -> None:
    """Invariant 2: the graphs hold the original's tensors themselves, under the original's names."""
    for graph_module in (case.pair.full, case.pair.low):
        parameters = dict(case.pair.model.named_parameters())
        for name, parameter in graph_module.named_parameters():
            assert parameter is parameters.pop(name), name
        assert not parameters, f"without {list(parameters)}"
        buffers = dict(case.pair.model.named_buffers())
        for name, buffer in graph_module.named_buffers():
            assert buffer is buffers[name], name
        assert graph_module.training


def check_geometry(case: Case) -> None:
    """Invariant 3: on one input, every conv's output has the same shape in the model, the full and the low graph."""
    for ratio in (1, case.kwargs["ratio"]):
        shapes = []
        for module in (case.pair.model, case.pair.full, case.pair.low):
            with RecordConvShapes() as record, torch.no_grad():
                output = module(case.images(ratio))
            shapes.append([*record.shapes, tuple(output.shape)])
        assert shapes[0] == shapes[1] == shapes[2]


def kernel_is_shared(model: nn.Module, parameter: nn.Parameter) -> bool:
    return sum(own is parameter for module in model.modules() for own in module.parameters(recurse=False)) > 1


def check_low_is_the_eager_low_mode(case: Case) -> None:
    """Values, gradients (invariant 4, Eq. 4) and running statistics (invariant 5) of ``pair.low``."""
    kwargs, model = case.kwargs, case.pair.model
    reference, before = deepcopy(model), snapshot(model)
    output = case.pair.low(case.images())
    ours = gradients(model, output)

    ratio, transform = kwargs["kernel_ratio"] or kwargs["ratio"], kwargs["kernel_transform"]
    how = {name: kwargs[name] for name in ("rounding", "gain")} | {"transform": transform}
    where = {name: kwargs[name] for name in ("pool_convs", "drop_maxpools")}
    with EagerLowMode(ratio, leaves=isinstance(transform, str), **how, **where) as mode:
        expected = reference(case.images())
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)

    theirs = gradients(reference, expected)
    for name, parameter in reference.named_parameters():
        pooled = mode.pooled_kernels.get(id(parameter))
        if pooled is not None and isinstance(transform, str):
            assert pooled.grad is not None
            gradient = naive_kernel_gradient(pooled.grad, tuple(parameter.shape[2:]), ratio, **how)
            # A kernel that two convolutions share may be pooled in one of them only: the stem's, a strided one's.
            whole = theirs[name]
            assert whole is None or kernel_is_shared(reference, parameter)
            theirs[name] = gradient if whole is None else gradient + whole
    scale = max(gradient.abs().max().item() for gradient in theirs.values() if gradient is not None)
    for name, gradient in theirs.items():
        found = ours[name]
        assert gradient is not None and found is not None, f"{name} gets no gradient"
        worst = (found - gradient).abs().max().item()
        assert worst <= 1e-9 * max(scale, 1.0), f"the gradient of {name} is off by {worst:.1e}"

    if kwargs["batchnorm"] == "isolate":
        assert_same_state(model.state_dict(), before)
    else:
        for name, buffer in reference.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-9, atol=1e-9, msg=name)
    assert ratio == 1 or mode.pooled_kernels, "nothing was pooled, so nothing was compared"


def check_gradients_numerically(case: Case) -> None:
    """Invariant 4: the gradients of the low graph against finite differences, for every weight of a conv."""
    low = case.pair.low
    names = [name for name, parameter in low.named_parameters() if parameter.dim() > 2]

    def outputs(*weights: Tensor) -> Tensor:
        return functional_call(low, dict(zip(names, weights, strict=True)), (case.images(),))

    weights = [low.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(outputs, weights, fast_mode=True)


def check_pair(spec: CNNSpec, kwargs: Kwargs) -> None:
    case = make_case(spec, kwargs)
    check_full_is_the_model(case)
    check_parameters_are_shared(case)
    # A transposed conv crops what it gives, and without its maxpools a model has other maps.
    if kwargs["drop_maxpools"] == "none" and not any(conv.transposed for conv in convs_of(spec)):
        check_geometry(case)
    check_low_is_the_eager_low_mode(case)


# The default suite ---------------------------------------------------------------------------------------------------


@given(cnn_specs(), low_mode_kwargs())
@quick
def test_random_cnns(spec: CNNSpec, kwargs: Kwargs) -> None:
    check_pair(spec, kwargs)


@pytest.mark.parametrize("dims", [1, 3])
@given(data=st.data())
@settings(parent=quick, max_examples=25)
def test_models_of_other_dimensions(dims: int, data: st.DataObject) -> None:
    check_pair(data.draw(cnn_specs(dims=dims)), data.draw(low_mode_kwargs()))


@given(cnn_specs(transposed=True), low_mode_kwargs())
@settings(parent=quick, max_examples=25)
def test_models_with_transposed_convs(spec: CNNSpec, kwargs: Kwargs) -> None:
    check_pair(spec, kwargs)


@pytest.mark.parametrize("gain", ["mean", "sum"])
@pytest.mark.parametrize("kernel_transform", ["avg", "adaptive", "center", "linear"])
@pytest.mark.parametrize("rounding", ["ceil", "floor", "cover"])
@pytest.mark.parametrize("ratio", [2, 3])
def test_every_kernel_from_1_to_9(ratio: int, rounding: str, kernel_transform: str, gain: str) -> None:
    """One chain of convs with all the sizes, so that none is left to chance: the odd ones padded, the even ones not."""
    convs = [ConvSpec(2, 2, (k,), (1,), (1,), padding=k // 2 * (k % 2)) for k in (1, *range(1, 10))]
    options = {"ratio": ratio, "rounding": rounding, "kernel_transform": kernel_transform, "gain": gain}
    check_pair(chain_of(convs), DEFAULTS | options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["silu", "none"])
@pytest.mark.parametrize(
    ("rounding", "kernel_transform"), [("ceil", "avg"), ("ceil", "center"), ("cover", "avg"), ("cover", "linear")]
)
def test_every_transposed_kernel_from_1_to_6(rounding: str, kernel_transform: str, activation: str, bias: bool) -> None:
    """As above, each kernel with and without padding; at stride 2 those that stay large enough to be pooled.

    Without an activation the next pooled conv reads what the transposed one gives, its padding and bias included.
    """
    shapes = [(k, 1, padding, 0) for k in range(1, 7) for padding in (0, k // 2)]
    shapes += [(k, 2, padding, extra) for k in (5, 6) for padding in (0, 2) for extra in (0, 1)]
    for kernel, stride, padding, extra in shapes:
        opening = ConvSpec(2, 3, (1,), (1,), (1,), padding=0)
        transposed = ConvSpec(
            3, 2, (kernel,), (stride,), (1,), (padding,), bias=bias, transposed=True, output_padding=(extra,)
        )
        closing = ConvSpec(2, 2, (5,), (1,), (1,), padding=2)
        options = {"rounding": rounding, "kernel_transform": kernel_transform}
        check_pair(chain_of([opening, transposed, closing], activation), DEFAULTS | options)


@pytest.mark.parametrize("functional", [True, False])
def test_a_kernel_that_the_stem_shares_with_a_pooled_convolution(functional: bool) -> None:
    """The one keeps it, the other pools it: its gradient is the sum of both ways."""
    conv = ConvSpec(2, 2, (3,), (1,), (1,), padding=1, functional=functional)
    tied = TiedSpec((UnitSpec(conv, "batch", "silu"), UnitSpec(replace(conv, dilation=(2,), padding=2, bias=False))))
    spec = CNNSpec(((tied,),), 2, 2, classes=2, size=(24,), head="mean", seed=0)
    case = make_case(spec, DEFAULTS)
    assert len(case.pair.report.pooled) == 1
    assert len(list(case.pair.model.parameters())) == len(list(case.original.parameters())) == 6
    check_pair(spec, DEFAULTS)


@given(cnn_specs(cumulative=True), low_mode_kwargs())
@settings(parent=quick, max_examples=20)
def test_models_with_cumulative_batchnorms(spec: CNNSpec, kwargs: Kwargs) -> None:
    check_pair(spec, kwargs)


@given(cnn_specs(max_size=12, smooth=True), low_mode_kwargs())
@settings(parent=quick, max_examples=25)
def test_the_gradients_of_the_low_graph_are_its_slopes(spec: CNNSpec, kwargs: Kwargs) -> None:
    check_gradients_numerically(make_case(spec, kwargs))


def test_a_cumulative_batchnorm_is_no_obstacle() -> None:
    """``momentum=None`` divides by the number of batches so far, which a graph must leave to run time."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Conv2d(4, 4, 3)).train()
    reference = deepcopy(model)
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    pair = build_pair(model, images)
    for _ in range(2):
        assert torch.equal(pair.full(images), reference(images))
        pair.low(images)
    assert_same_state(model.state_dict(), reference.state_dict())


# And at length -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "transposed", "examples"), [(2, False, 2000), (2, True, 500), (1, True, 500), (3, True, 250)]
)
def test_every_invariant_at_length(dims: int, transposed: bool, examples: int) -> None:
    @given(cnn_specs(dims=dims, transposed=transposed, cumulative=True), low_mode_kwargs())
    @settings(parent=thorough, max_examples=examples)
    def check(spec: CNNSpec, kwargs: Kwargs) -> None:
        check_pair(spec, kwargs)

    check()


@pytest.mark.slow
@given(cnn_specs(max_size=12, smooth=True), low_mode_kwargs())
@settings(parent=thorough, max_examples=500)
def test_slopes_at_length(spec: CNNSpec, kwargs: Kwargs) -> None:
    check_gradients_numerically(make_case(spec, kwargs))
