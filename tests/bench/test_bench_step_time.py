"""Step times: interleaved, resumed, tabled; and profiles whose groups are what ran."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_rows import ratio
from torch.autograd import DeviceType

from bench import harness, networks, step_time
from bench.case import Case
from bench.networks import small_resnet
from bench.step_profile import GROUPS, WITHIN, _kernel_times, group_of, largest, marked_pooling, profile_step, shares
from bench.step_report import expected, largest_table, profile_table, ratio_table, short_table
from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, build_pair

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")

# Profiles.


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("training step | aten::conv2d | aten::convolution | aten::mkldnn_convolution", "convolution+matmul"),
        ("training step | aten::conv2d | aten::empty", "convolution+matmul"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0 | aten::add_", "convolution+matmul"),
        ("aten::linear | aten::addmm", "convolution+matmul"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolution+matmul"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "convolution+matmul"),
        ("CompiledFunction | triton_tem_fused_convolution_3", "convolution+matmul"),
        ("aten::batch_norm | aten::cudnn_batch_norm | void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>", "norm"),
        ("autograd::engine::evaluate_function: NativeBatchNormBackward0 | aten::empty", "norm"),
        ("aten::layer_norm", "norm"),
        ("triton_red_fused__native_batch_norm_legit_functional_convolution_relu_4", "norm"),
        ("CompiledFunction | ## Call CompiledFxGraph abc ## | graph_1_cpp_fused_native_batch_norm_backward_1", "norm"),
        ("graph_1_cpp_fused__native_batch_norm_legit_mul_relu_stack_sum_1", "norm"),
        ("graph_1_cpp_fused_expand_mul_native_batch_norm_backward_2", "norm"),
        ("triton_poi_fused_convolution_relu_2", "elementwise"),
        ("aten::relu | aten::clamp_min", "elementwise"),
        ("aten::upsample_bilinear2d", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float> >", "elementwise"),
        ("graph_1_cpp_fused_add_mul_replication_pad2d_slice_0", "elementwise"),
        ("triton_poi_fused_mul_stack_sum_0", "elementwise"),
        ("graph_1_cpp_fused_expand_mul_select_slice_backward_unsqueeze_8", "elementwise"),
        ("training step | weight pooling | aten::sum", "weight pooling"),
        ("Optimizer.step#SGD.step | aten::add_", "optimizer"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<TensorListMetadata>", "optimizer"),
        ("training step", "other"),
        ("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad | aten::detach", "other"),
        ("Torch-Compiled Region: 1/0 | CompiledFunction", "other"),
        ("Memcpy DtoD (Device -> Device)", "other"),
        ("aten::narrow | aten::slice | aten::as_strided", "other"),
    ],
)  # fmt: skip
def test_a_name_shows_its_group(name: str, group: str) -> None:
    assert group_of(name) == group


def test_shares_are_of_the_sum() -> None:
    times = [("aten::conv2d", 3.0), ("aten::conv2d" + WITHIN + "aten::empty", 1.0), ("aten::batch_norm", 2.0)]
    found = shares([*times, ("aten::relu", 2.0)])
    assert list(found) == list(GROUPS)
    assert found["convolution+matmul"] == 0.5
    assert found["norm"] == found["elementwise"] == 0.25
    assert found["other"] == 0
    assert set(shares([]).values()) == {0.0}


def test_a_profile_sees_weight_pooling_in_low_mode_alone() -> None:
    model = small_resnet(width=32).train()
    images = torch.randn(4, 3, 8, 8)
    pair = build_pair(model, images)
    net = LowModeModel(pair, BernoulliSchedule(0.5), compile=False)
    with marked_pooling():
        for mode in net.modes:  # what only first steps do is no part of a profile
            net.run(mode, images).sum().backward()
        found = {
            mode: profile_step(lambda mode=mode: net.run(mode, images).sum().backward(), CPU, wall=1.0)
            for mode in net.modes
        }
    for profile in found.values():
        assert math.isclose(sum(profile["shares"].values()), 1)
        assert profile["busy seconds"] > 0
        assert profile["shares"]["convolution+matmul"] > 0 < profile["shares"]["norm"]
        assert all(0 < share < 1 for share in profile["largest"].values()) and len(profile["largest"]) == 6
    assert found[Mode.FULL]["shares"]["weight pooling"] == 0
    assert found[Mode.LOW]["shares"]["weight pooling"] > 0.02


def event(name: str, parent: Any = None, kernels: Any = (), number: int = -1, device: Any = DeviceType.CPU) -> Any:
    """What the profile reads of torch's events; ``kernels``: (name, microseconds)."""
    launched = [SimpleNamespace(name=kernel, duration=time) for kernel, time in kernels]
    common = {"device_type": device, "kernels": launched, "sequence_nr": number, "is_user_annotation": False}
    return SimpleNamespace(name=name, cpu_parent=parent, **common)


def on_the_gpu(name: str, time: float, annotation: bool = False) -> Any:
    found = event(name, device=DeviceType.CUDA)
    found.is_user_annotation, found.time_range = annotation, SimpleNamespace(elapsed_us=lambda: time)
    return found


def test_kernels_belong_to_what_launched_them_and_count_once() -> None:
    step = event("training step", kernels=[("training step", 100.0)])  # the range that torch draws over its kernels
    pooling = event("weight pooling", step)
    pooled = event("aten::sum", pooling, [("reduce_kernel", 4.0)], number=7)
    backward = event("autograd::engine::evaluate_function: SumBackward1", step, number=7)
    expanded = event("aten::mul", backward, [("elementwise_kernel", 2.0)])
    relu = event("aten::relu", step, [("elementwise_kernel", 3.0)])
    device = [on_the_gpu("training step", 100.0, True), on_the_gpu("reduce_kernel", 4.0)]
    device += [on_the_gpu("elementwise_kernel", time) for time in (2.0, 3.0)]
    device += [on_the_gpu("triton_red_fused_native_batch_norm_backward_1", 6.0)]  # launched by nothing that torch knows
    found = list(_kernel_times([step, pooling, pooled, backward, expanded, relu, *device]))
    assert sum(time for _, time in found) == 15.0
    sums: dict[str, float] = {}
    for name, time_ in found:
        sums[group_of(name)] = sums.get(group_of(name), 0.0) + time_
    assert sums == {"weight pooling": 6.0, "elementwise": 3.0, "norm": 6.0}


def test_marks_change_no_value() -> None:
    torch.manual_seed(0)
    model, images = small_resnet(width=8).train(), torch.randn(4, 3, 8, 8)
    before = build_pair(model, torch.randn(4, 3, 16, 16)).low(images)
    with marked_pooling():
        assert torch.equal(build_pair(model, torch.randn(4, 3, 16, 16)).low(images), before)


# Step times.


def test_paired_steps_are_interleaved() -> None:
    calls: list[str] = []
    times = harness.paired_steps({name: lambda name=name: calls.append(name) for name in "ab"}, CPU, rounds=3, warmup=1)
    assert calls == ["a", "b"] + ["a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


@pytest.fixture
def tiny_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.CASES, "tiny", Case(lambda: small_resnet(width=8), 16, 4))
    monkeypatch.setattr(step_time, "KINDS", {"default": (("eager",),)})


@pytest.mark.usefixtures("tiny_cases")
def test_step_time_measures_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    arguments = ["--cases", "tiny", "--rounds", "3", "--out", str(tmp_path / "step.json")]
    step_time.main(arguments)
    row = json.loads((tmp_path / "step.json").read_text())["rows"]["tiny"]
    eager = row["eager"]
    assert 0 < row["mac_ratio"] < 0.2
    assert eager["time / macs"] == eager["low / full"]["median"] / row["mac_ratio"]
    assert eager["resolution only / full"]["n"] == 3
    assert eager["peak memory, bytes"]["full"] > 0
    assert set(eager["profile"]) == {"full", "low"}
    assert "macs 0.0" in capsys.readouterr().out
    assert f"| tiny | eager | {eager['low / full']['median']:.3f} |" in (tmp_path / "step.md").read_text()
    monkeypatch.setattr(step_time, "measure", lambda *_: pytest.fail("measured again"))
    step_time.main([*arguments, "--resume"])


@pytest.mark.usefixtures("tiny_cases")
def test_batches_are_not_mixed_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(step_time, "measure", lambda *_: {"eager": step_row()["eager"], "mac_ratio": 0.1})
    arguments = ["--cases", "tiny", "--out", str(tmp_path / "step.json")]
    step_time.main([*arguments, "--batch", "3"])
    with pytest.raises(SystemExit):
        step_time.main([*arguments, "--batch", "5", "--resume"])
    assert "was measured with other batches, {'tiny': 3}; give another --out" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_cases")
def test_a_case_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found = step_row()["eager"]

    def measure(case: Case, *_: Any) -> dict[str, Any]:
        if case.side == 32:
            raise RuntimeError("out of memory")
        return {"eager": found, "mac_ratio": 0.1}

    monkeypatch.setattr(step_time, "measure", measure)
    with pytest.raises(SystemExit) as ended:
        step_time.main(["--cases", "resnet18-cifar", "tiny", "--out", str(tmp_path / "step.json")])
    assert ended.value.code == 1
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert rows["resnet18-cifar"] == {
        "batch": 125, "side": 32, "failures": {"eager": "RuntimeError: out of memory"}
    }  # fmt: skip
    assert rows["tiny"]["failures"] == {} and "eager" in rows["tiny"]
    assert "resnet18-cifar" not in (tmp_path / "step.md").read_text()
    assert "resnet18-cifar        eager       FAILED: RuntimeError: out of memory" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_cases")
def test_what_has_failed_comes_last_when_a_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what has never begun comes first, though it stands behind."""
    tried: list[int] = []

    def measure(case: Case, *_: Any) -> dict[str, Any]:
        tried.append(case.side)
        if case.side == 32:
            raise RuntimeError("out of memory")
        return {"eager": step_row()["eager"], "mac_ratio": 0.1}

    monkeypatch.setattr(step_time, "measure", measure)
    out = ["--out", str(tmp_path / "step.json")]
    for more in (["--cases", "resnet18-cifar"], ["--cases", "resnet18-cifar", "tiny", "--resume"]):
        with pytest.raises(SystemExit):
            step_time.main([*more, *out])
    assert tried == [32, 16, 32]


def step_row() -> dict[str, Any]:
    profile = {"busy seconds": 1.0, "shares": {**dict.fromkeys(GROUPS, 0.0), "norm": 0.75, "other": 0.25}, "gaps": 0.5}
    kind = {
        "low / full": ratio(0.125),
        "resolution only / full": ratio(0.25),
        "plain compiled full / full": ratio(1.01),
        "time / macs": 1.25,
        "full seconds": ratio(0.08),
        "low seconds": ratio(0.01),
        "peak memory, bytes": {"full": 400, "low": 100},
        "profile": {"full": profile},
    }
    return {"mac_ratio": 0.1, "eager": kind, "cuda graphs": kind}


def test_the_tables_of_step_times() -> None:
    rows = {"resnet18-cifar": step_row()}
    last = ratio_table(rows, "cuda").splitlines()[-1]
    ratios = "0.125 | 0.115 to 0.135 | 0.100 | 0.438 | 1.25 | 0.250 | 1.010"
    assert last == f"| resnet18-cifar | cuda graphs | {ratios} | ≤ 0.15 | 0.37 | 0.25 | 80.00 | 10.00 |"
    assert "80.00" not in ratio_table(rows, "cpu"), "absolute times are a GPU's only"
    assert "aimed at" not in short_table({"tiny": step_row()}, "cuda"), "nothing is aimed at for it"
    shown = profile_table(rows).splitlines()[-1]
    assert shown == "| resnet18-cifar | cuda graphs | full | 0 | 75 | 0 |  | 0 | 25 | 50 |"


def test_the_largest_operators() -> None:
    times = [("a 2×3", 1.0), ("b", 5.0), ("a 2×3", 3.0), ("c", 1.0)]
    assert largest(times, 2) == {"b": 0.5, "a 2×3": 0.4}
    assert largest([]) == {}
    row = step_row()
    row["eager"] = {"profile": {"low": {"largest": {"aten::mm 2×3 3×4": 0.25}}}}
    assert largest_table({"tiny": row}).splitlines()[-1] == "| tiny | eager | `aten::mm 2×3 3×4` | 25 |"


def test_what_a_low_step_could_cost() -> None:
    row = step_row()
    assert expected(row, "eager") == 0.75 / 4 + 0.25
    shares = {**dict.fromkeys(GROUPS, 0.0), "convolution+matmul": 0.5, "elementwise": 0.25, "optimizer": 0.25}
    row["eager"] = {"profile": {"full": {"shares": shares}}}
    assert expected(row, "eager") == pytest.approx(0.5 * 0.1 + 0.25 / 4 + 0.25)
    assert expected({"mac_ratio": 0.1, "compiled": {}}, "compiled") is None
