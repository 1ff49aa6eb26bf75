"""What real training does to a net: averages, pickles, wrappers, precisions, layouts, no compiler at hand."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3, unwrap_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, Mode, PeriodicSchedule, build_pair

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body, self.fc = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.norm(self.stem(x)).relu()).mean((2, 3)))


class Guarded(Small):
    """Its forward asks a flag that may change, and so may its graph."""

    doubled = False

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2 if self.doubled else super().forward(x)


def make(model: nn.Module | None = None, **options: Any) -> LowModeModel:
    torch.manual_seed(0)
    pair = build_pair(model or Small(), torch.zeros(4, 3, 16, 16), LowModeConfig(**options))
    return LowModeModel(pair, PeriodicSchedule(2), compile=False).train()


def steps(net: nn.Module, count: int = 4, lr: float = 0.1, after: Any = lambda: None) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(net(IMAGES), LABELS).backward()
        optimizer.step()
        after()
    return optimizer


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


# Pickles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"kernel_transform": "center", "drop_maxpools": "all"}, {"batchnorm": "share"}]
)
def test_a_pickled_net_trains_on_to_the_same_bits(options: dict[str, Any]) -> None:
    net = make(**options)
    steps(net, 3)
    ours = pickle.loads(pickle.dumps(net))
    assert ours.step == net.step == 3 and ours.training and ours.pair.report == net.pair.report
    assert ours.pair.model is not net.pair.model and all(
        ours.get_parameter(name) is value for name, value in ours.pair.model.named_parameters()
    )
    steps(ours)
    steps(net)
    assert_same(ours.state_dict(), net.state_dict())


def test_a_pair_from_the_second_front_end_pickles_too() -> None:
    pair = build_pair(Small(), torch.zeros(4, 3, 16, 16), front_end="export")
    ours = pickle.loads(pickle.dumps(pair))
    assert ours.report.front_end == "export"
    assert torch.equal(ours.low(pair.downsample(IMAGES)), pair.low(pair.downsample(IMAGES)))


class Counting(Small):
    """Its graph is not proven to train as it does, for it counts; low steps run the model itself."""

    forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        return super().forward(images)


def test_a_pair_whose_graph_could_not_run_low_steps_pickles_too() -> None:
    pair = build_pair(Counting(), torch.zeros(4, 3, 16, 16))
    assert pair.report.front_end == "fx" and pair.live
    ours = pickle.loads(pickle.dumps(pair))
    assert ours.live and ours.rungs[0].draft is None


@pytest.mark.parametrize("front_end", ["fx", "export"])
def test_a_copy_of_a_pair_that_runs_graphs_is_proven_where_it_changes(front_end: Any) -> None:
    pair = build_pair(Small(), torch.zeros(4, 3, 16, 16), front_end=front_end)
    for ours in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        net = LowModeModel(ours, PeriodicSchedule(1), compile=False)
        net(IMAGES)
        net.pair.model.register_forward_hook(lambda module, args, output: output * 2)
        with pytest.raises(ValueError, match="does not train as the model does"):
            net(IMAGES)
    LowModeModel(pair, PeriodicSchedule(1), compile=False)(IMAGES)


def test_torch_save_takes_a_net() -> None:
    net, file = make(), io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=False).state_dict(), net.state_dict())


def test_a_pickle_whose_model_would_be_traced_otherwise_is_refused() -> None:
    """A graph keeps what forward did when it was traced; another one may not take its place unsaid."""
    net = make(Guarded())
    net.pair.model.doubled = True
    with pytest.raises(
        ValueError, match="the pickled pair of Guarded no longer matches its model: the model's code, its flags or"
    ):
        pickle.loads(pickle.dumps(net))


class Pooling(nn.Module):
    """Its graph holds a constant that may change."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.window = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), 2

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.body(self.stem(x)), self.window)


def test_a_pickle_whose_constants_would_be_others_is_refused() -> None:
    pair = build_pair(Pooling(), torch.zeros(2, 3, 16, 16))
    pair.model.window = 4
    with pytest.raises(ValueError, match="the pickled pair of Pooling no longer matches its model"):
        pickle.loads(pickle.dumps(pair))


def test_a_net_of_another_type_than_it_was_built_with_pickles_too() -> None:
    net = make().bfloat16()
    ours = pickle.loads(pickle.dumps(net))
    assert ours.run(Mode.LOW, IMAGES.bfloat16()).dtype == torch.bfloat16


# Averages ------------------------------------------------------------------------------------------------------------


def test_timms_average_tracks_the_real_weights() -> None:
    net = make()
    ema = ModelEmaV3(net, decay=0.5)
    expected = {name: value.clone() for name, value in net.state_dict().items()}

    def track() -> None:
        ema.update(net)
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                expected[name].lerp_(value, 0.5)
            else:
                expected[name].copy_(value)

    steps(net, 5, after=track)
    assert not ema.module.training
    for name, value in ema.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    plain = Small().eval()
    plain.load_state_dict(ema.module.state_dict(), strict=True)
    assert torch.equal(ema.module(IMAGES), plain(IMAGES))


@pytest.mark.parametrize("use_buffers", [True, False])
def test_torchs_average_tracks_the_real_weights(use_buffers: bool) -> None:
    net = make()
    averaged = AveragedModel(net, use_buffers=use_buffers)
    seen: list[dict[str, Tensor]] = []

    def track() -> None:
        averaged.update_parameters(net)
        seen.append({name: value.detach().clone() for name, value in net.named_parameters()})

    steps(net, 4, after=track)
    for name, value in averaged.module.named_parameters():
        torch.testing.assert_close(value, torch.stack([each[name] for each in seen]).mean(0), msg=name)
    assert list(averaged.module.state_dict()) == list(Small().state_dict())


def test_an_exponential_average_of_torch_works_too() -> None:
    net = make()
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    steps(net, 3, after=lambda: averaged.update_parameters(net))
    assert not torch.equal(averaged.module.fc.weight, net.fc.weight)
    assert averaged.eval()(IMAGES).shape == (4, 5)


# Wrappers ------------------------------------------------------------------------------------------------------------


def test_unwrapping_gives_the_models_own_keys() -> None:
    net = make()
    compiled = torch.compile(net, backend="eager")
    steps(compiled, 2)
    assert (
        unwrap_model(compiled) is net
        and unwrap_model(ModelEmaV3(net)).state_dict().keys() == Small().state_dict().keys()
    )
    plain = Small()
    plain.load_state_dict(unwrap_model(compiled).state_dict(), strict=True)
    assert_same(plain.state_dict(), net.state_dict())
    net.load_state_dict(Small().state_dict(), strict=True)


def test_gradient_clipping_and_checkpointing_on_the_callers_side() -> None:
    net, plain = make(), make()
    for each in (net, plain):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each.attach(optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            output = checkpoint(each, IMAGES, use_reentrant=False) if each is net else each(IMAGES)
            F.cross_entropy(output, LABELS).backward()
            assert nn.utils.clip_grad_norm_(each.parameters(), 0.01) > 0.01
            optimizer.step()
    for (name, ours), theirs in zip(net.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


# Precision and layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.LOW, Mode.FULL])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_reaches_the_convolutions_of_both_graphs(dtype: torch.dtype, mode: Mode) -> None:
    net, seen = make(), []
    net.fc.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=dtype):
        output = net.run(mode, IMAGES)
    assert output.dtype == dtype and seen == [dtype]
    output.float().square().mean().backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in net.parameters())
    torch.testing.assert_close(output.float(), net.run(mode, IMAGES), rtol=0.05, atol=0.05)


def test_a_step_that_the_scaler_skips_does_not_count() -> None:
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for attempt in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(IMAGES), LABELS)
        scaler.scale(loss * (float("inf") if attempt == 1 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert net.step == 2


@pytest.mark.parametrize("mode", [Mode.LOW, Mode.FULL])
def test_channels_last_stays_and_changes_nothing(mode: Mode) -> None:
    net = make()
    expected = net.run(mode, IMAGES)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert net.body.weight.is_contiguous(memory_format=torch.channels_last)
    shapes: list[bool] = []
    net.norm.register_forward_hook(
        lambda module, inputs, output: shapes.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    found = net.run(mode, IMAGES.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    assert all(shapes)


# A machine without a compiler ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_compiler_a_warning_and_eager() -> None:
    code = textwrap.dedent(
        """
        import warnings, torch
        from torch import nn
        from lowmode_fx import LowModeModel, PeriodicSchedule, build_pair
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        net = LowModeModel(build_pair(model, torch.zeros(2, 3, 16, 16)), PeriodicSchedule(2)).train()
        images = torch.randn(2, 3, 16, 16)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outputs = [net(images) for _ in range(4)]
        ours = [str(each.message) for each in caught if "torch.compile does not work here" in str(each.message)]
        assert len(ours) == 1, caught
        outputs[1].sum().backward()
        assert torch.equal(outputs[0], model(images)) and outputs[1].shape == (2, 4, 8, 8)
        print(ours[0])
        """
    )
    caches = {"TORCHINDUCTOR_CACHE_DIR": "", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    environment = {**os.environ, "CXX": "/nowhere/c++", **caches}
    environment.pop("TORCHINDUCTOR_CACHE_DIR")
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "all modes run uncompiled" in run.stdout


def test_an_error_of_the_model_is_no_missing_compiler() -> None:
    net = LowModeModel(make().pair, BernoulliSchedule(p=0.0), compile_options={"backend": "eager"}).train()
    with pytest.raises(RuntimeError, match="channels"):
        net(torch.zeros(4, 5, 16, 16))
    assert copy.deepcopy(net)._runner.compiled
