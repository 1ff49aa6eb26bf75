"""Does everything that the other benchmarks need work on this machine? One line per check; run it first on a GPU.

python -m bench.smoke              # ResNet-18: some minutes, mostly compilation
python -m bench.smoke --small      # a small ResNet, uncompiled: seconds
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from bench.harness import header
from bench.networks import resnet, small_resnet
from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, TrainStep, build_pair

STEPS, BATCH, SIDE = 20, 64, 32


def network(small: bool, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    model = small_resnet(width=8) if small else resnet(18, "cifar", 10)
    return model.to(device).to(memory_format=torch.channels_last).train()


def batch(device: torch.device, count: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, SIDE, SIDE, generator=generator).to(device, memory_format=torch.channels_last)
    return images, torch.randint(0, 10, (count,), generator=generator).to(device)


def full_is_the_model(small: bool, device: torch.device) -> str:
    """Outputs, gradients and buffers of the full graph are the eager model's, bit for bit, in bf16."""
    ours = network(small, device)
    images, targets = batch(device)
    theirs, full = copy.deepcopy(ours), build_pair(ours, images[:2]).full
    values = []
    for module, owner in ((full, ours), (theirs, theirs)):
        with torch.autocast(device.type, torch.bfloat16):
            outputs = module(images)
            F.cross_entropy(outputs, targets).backward()
        found = {f"gradient of {name}": parameter.grad for name, parameter in owner.named_parameters()}
        values.append({"outputs": outputs, **found, **dict(owner.named_buffers())})
    differing = [name for name, value in values[0].items() if not torch.equal(value, values[1][name])]
    if differing:
        raise AssertionError(f"{len(differing)} of {len(values[0])} tensors differ, such as {differing[0]}")
    return f"{len(values[0])} tensors bitwise equal to the eager model's"


def trains(small: bool, device: torch.device, compile_mode: str | None) -> str:
    """20 steps on one batch, in the modes of a schedule: the loss falls, and both graphs see the same parameters."""
    model = network(small, device)
    images, targets = batch(device)
    options = {"mode": compile_mode} if compile_mode else None
    pair = build_pair(model, images[:2])
    net = LowModeModel(pair, BernoulliSchedule(0.5), compile=not small, compile_options=options)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    net.attach(optimizer)
    losses: dict[Mode, list[float]] = {mode: [] for mode in net.modes}
    began = time.monotonic()
    for _ in range(STEPS):
        if compile_mode:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(net(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert net.last_mode is not None  # True only before the first step
        losses[net.last_mode].append(loss.item())
    for mode, values in losses.items():
        if len(values) < 2 or not all(map(math.isfinite, values)) or values[-1] >= values[0]:
            raise AssertionError(f"{mode.value}-mode losses are {[round(value, 3) for value in values]}")
    if not small and net._runner.uncompiled:
        raise AssertionError(f"the compiler fails in {', '.join(map(str, net._runner.uncompiled))}: uncompiled")
    ends = ", ".join(f"{mode.value} {values[0]:.2f} → {values[-1]:.2f}" for mode, values in losses.items())
    return f"loss {ends} in {STEPS} steps ({time.monotonic() - began:.0f} s with compilation)"


def whole_steps(small: bool, device: torch.device) -> str:
    """20 steps as one call each, captured and not, are bitwise equal, with deterministic algorithms."""
    values, told = [], ""
    torch.use_deterministic_algorithms(True)
    try:
        for capture in (True, False):
            model = network(small, device)
            images, targets = batch(device)
            net = LowModeModel(build_pair(model, images[:2]), BernoulliSchedule(0.5), compile=False)
            net.train()
            # A rate that is exact in float32, in which captured steps read it.
            optimizer = torch.optim.SGD(net.parameters(), lr=2**-6, momentum=0.9, fused=True)
            step = TrainStep(net, F.cross_entropy, optimizer, autocast=torch.bfloat16, capture=capture)
            losses = [step(images, targets) for _ in range(STEPS)]
            values.append({"losses": torch.stack(losses), **model.state_dict()})
            if capture:
                told = f"{step.captures} graphs"
                if device.type == "cuda" and (step.optimizer_outside or step.captures != len(net.modes)):
                    raise AssertionError(f"{told}; not captured: {step.optimizer_outside}")
    finally:
        torch.use_deterministic_algorithms(False)
    differing = [name for name, value in values[0].items() if not torch.equal(value, values[1][name])]
    if differing:
        raise AssertionError(f"{len(differing)} of {len(values[0])} tensors differ, such as {differing[0]}; {told}")
    return f"{len(values[0])} tensors bitwise equal, captured ({told}) and not"


def checks(small: bool, device: torch.device) -> dict[str, Callable[[], str]]:
    found: dict[str, Callable[[], str]] = {
        "full graph": partial(full_is_the_model, small, device),
        "training, default" if not small else "training, uncompiled": partial(trains, small, device, None),
        "whole steps": partial(whole_steps, small, device),
    }
    if device.type == "cuda" and not small:
        found["training, CUDA graphs"] = partial(trains, small, device, "reduce-overhead")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small network, uncompiled")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by deterministic algorithms
    # The same algorithms for the same shapes, so that results are comparable bit for bit.
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    head = header("smoke")
    print(f"{head['device']}, {head['versions']}, Python {head['python']}", flush=True)
    failed = 0
    for name, check in checks(options.small, device).items():
        try:
            print(f"ok      {name}: {check()}", flush=True)
        except Exception as error:  # the other checks go on, whatever the error
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {str(error).strip()[:2000]}", flush=True)
        torch.compiler.reset()
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
