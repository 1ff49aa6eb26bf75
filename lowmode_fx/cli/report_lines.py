"""What a reader of a report wants first, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lowmode_fx.counting.large_kernels import large_kernels
from lowmode_fx.counting.report import FlopReport, full_first, mega
from lowmode_fx.counting.step_cost import StepCost
from lowmode_fx.lowering import report as pair_report
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes.wording import sides

_FULL = str(Mode.FULL)


def summary_lines(name: str, ladder: Ladder, flops: FlopReport, step: StepCost | None = None) -> list[str]:
    """Sizes, totals, the cost of a step where it is asked for, what was done for each low mode, and notes."""
    return [
        *total_lines(name, ladder, flops),
        *step_lines(step),
        *traced_lines(ladder),
        *large_kernel_lines(ladder, flops),
        *change_lines(ladder),
        *note_lines(ladder),
    ]


def total_lines(name: str, ladder: Ladder, flops: FlopReport) -> Iterator[str]:
    """The headline, as papers quote it, what stands beside it."""
    shapes = image_shapes(ladder)
    totals = [f"{mega(flops.macs[mode])} Mmacs {mode} at {shape}" for mode, shape in shapes.items()]
    yield (
        f"{name}: {', '.join([*totals, *_ratios(flops.ratios)])} (per image, forward: convolutions, linear layers and "
        "matrix products; flops are 2 × macs)"
    )
    beside = _totals(flops.total_macs, mega, "Mmacs", flops.total_ratios)
    yield f"with norms and the rest, as fvcore counts them: {beside}"
    if any(flops.weight_macs.values()):
        yield f"on weights, once a step: {_totals(flops.weight_macs, mega, 'Mmacs', {})}"


def traced_lines(ladder: Ladder) -> Iterator[str]:
    """What traced the model, and what failed to."""
    yield pair_report.traced_line(ladder.rungs[0].report)


def image_shapes(ladder: Ladder) -> dict[str, str]:
    """Of each mode, full-mode first, its images: ``3×224×224``."""
    low = {str(rung.mode): rung.report.low_input_shape for rung in ladder.rungs}
    shapes = {_FULL: ladder.rungs[0].report.input_shape} | low
    return {mode: sides(shape[1:]) for mode, shape in shapes.items()}


def step_lines(step: StepCost | None) -> Iterator[str]:
    """The cost of a step; nothing where none is asked for."""
    if step is None:
        return
    forward = _totals(step.forward_macs, mega, "Mmacs", step.forward_ratios)
    yield f"a step of {step.batch_size:,} images, forward, work on weights included: {forward}"
    if step.flops:
        both = _totals(step.flops, lambda count: f"{count / 1e9:,.2f}", "Gflops", step.ratios)
        yield f"forward and backward of it, convolutions and matrix products by torch's FlopCounterMode: {both}"
    else:
        yield f"its backward is not counted: torch's FlopCounterMode failed: {step.reason}"


def large_kernel_lines(ladder: Ladder, flops: FlopReport) -> Iterator[str]:
    """What large kernels take, and would take if they were resized; nothing where there are none."""
    large = large_kernels(ladder, flops)
    if large is not None:
        counts = ", ".join(f"{count} × {kernel}" for kernel, count in large.counts.items())
        resized, kept = (", ".join(_ratios(ratios)) for ratios in (large.ratios, large.kept))
        share = f"{counts}, {large.share:.1%} of full-mode's macs"
        yield f"large kernels: {share}; resized with the images {resized}, kept {kept}"


def change_lines(ladder: Ladder) -> Iterator[str]:
    """What the passes changed and what they left alone, with the reasons, for each low mode."""
    for rung in ladder.rungs:
        yield from (f"{_of(ladder, str(rung.mode))}{line}" for line in pair_report.change_lines(rung.report))


def note_lines(ladder: Ladder) -> Iterator[str]:
    """What a user should know of each low mode."""
    for rung in ladder.rungs:
        yield from (f"note: {_of(ladder, str(rung.mode))}{note}" for note in rung.report.notes)
    if points := pair_report.about_points(rung.report for rung in ladder.rungs):
        yield f"note: {points}"


def _of(ladder: Ladder, mode: str) -> str:
    return f"{mode}: " if len(ladder.rungs) > 1 else ""


def _totals(counts: Mapping[str, int], written: Callable[[int], str], unit: str, ratios: Mapping[str, float]) -> str:
    found = [f"{written(counts[mode])} {unit} {mode}" for mode in full_first(counts)]
    return ", ".join([*found, *_ratios(ratios)])


def _ratios(ratios: Mapping[str, float]) -> list[str]:
    return [f"{mode} / full = {ratio:.4f}" for mode, ratio in ratios.items()]
