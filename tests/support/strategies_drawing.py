"""One random CNN in the making: every draw moves on the smallest map, so that the next one still runs on it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from specs import ConcatSpec, ConvSpec, MaxPoolSpec, NodeSpec, Pairs, ResidualSpec, TiedSpec, TwiceSpec, UnitSpec


class Drawing:
    """One model in the making. ``small`` is the smallest map that it will see at this place."""

    def __init__(
        self,
        draw: st.DrawFn,
        size: tuple[int, ...],
        channels: int,
        *,
        convs: int,
        max_kernel: int,
        smooth: bool,
        cumulative: bool,
    ) -> None:
        self.draw, self.channels, self.convs_left, self.max_kernel = draw, channels, convs, max_kernel
        self.smooth, self.cumulative = smooth, cumulative
        self.kernels = st.sampled_from([size for size in (1, 2, 3, 4, 5, 6, 7, 3, 5, 7) if size <= max_kernel])
        self.dims = len(size)
        self.small = tuple(math.ceil(length / 3) for length in size)

    def one_in(self, times: int) -> bool:
        return self.draw(st.integers(1, times)) == times

    def per_dim(self, values: st.SearchStrategy[int], *, differ: int) -> tuple[int, ...]:
        """The same value in every dimension, or one time in ``differ`` one for each."""
        if self.one_in(differ):
            return tuple(self.draw(values) for _ in range(self.dims))
        return (self.draw(values),) * self.dims

    def node(self, *, first: bool, transposed: bool) -> NodeSpec:
        kinds = ["unit", "unit", "residual", "concat"]
        kinds += ["tied"] if self.convs_left > 1 else []
        if not first:
            kinds += ["twice"]
            kinds += ["maxpool"] * 2 if min(self.small) >= 3 and not self.smooth else []
            kinds += ["transposed"] * 3 if transposed and max(self.small) <= 14 else []
        match self.draw(st.sampled_from(kinds)):
            case "residual":
                return self.residual()
            case "concat":
                return self.concat()
            case "twice":
                return TwiceSpec(self.unit(keep_size=True, outputs=self.channels, stride=(1,) * self.dims))
            case "tied":
                return self.tied()
            case "maxpool":
                return self.maxpool()
            case "transposed":
                return self.norm_and_activation(self.transposed_conv())
        return self.unit()

    def unit(
        self,
        *,
        keep_size: bool = False,
        outputs: int | None = None,
        stride: tuple[int, ...] | None = None,
        final: bool = False,
        kernels: st.SearchStrategy[int] | None = None,
    ) -> UnitSpec:
        return self.norm_and_activation(self.conv(keep_size, outputs, stride, kernels), final=final)

    def norm_and_activation(self, conv: ConvSpec, *, final: bool = False) -> UnitSpec:
        norms = ["batch"] * 6 + ["group", "group", "none", "none", "batch_untracked"]
        norm = self.draw(st.sampled_from([*norms, *(["batch_cumulative"] * 3 if self.cumulative else [])]))
        norm_first = not final and self.one_in(6)
        activation = "none" if final else self.activation(inplace=not norm_first)
        return UnitSpec(conv, norm, activation, norm_first)

    def activation(self, *, inplace: bool) -> str:
        kinked = ["relu", "relu_functional", *(["relu_inplace"] if inplace else [])]
        return self.draw(st.sampled_from(["silu"] if self.smooth else [*kinked, "silu"]))

    def conv(
        self,
        keep_size: bool,
        outputs: int | None = None,
        stride: tuple[int, ...] | None = None,
        kernels: st.SearchStrategy[int] | None = None,
    ) -> ConvSpec:
        """Draw a conv, count it and move ``small`` and ``channels`` behind it."""
        self.convs_left -= 1
        kernel = self.per_dim(self.kernels if kernels is None else kernels, differ=4)
        dilation = self.per_dim(st.sampled_from([1, 1, 2]), differ=6)
        if stride is None:
            stride = self.stride()
        groups, outputs = self.groups(outputs)
        functional = self.one_in(4)
        padding = self.free_padding(kernel, stride, dilation)
        if keep_size or min(_sizes(self.small, kernel, stride, dilation, padding)) < 1:
            padding = self.keeping_padding(kernel, stride, dilation)
        modes = ["zeros"] if functional else self.padding_modes(kernel, dilation, padding)
        spec = ConvSpec(
            self.channels,
            outputs,
            kernel,
            stride,
            dilation,
            padding,
            groups=groups,
            bias=self.draw(st.booleans()),
            padding_mode=self.draw(st.sampled_from(modes)),
            functional=functional,
        )
        self.small = _sizes(self.small, kernel, stride, dilation, padding)
        self.channels = outputs
        return spec

    def stride(self) -> tuple[int, ...]:
        if min(self.small) >= 4 and self.one_in(3):
            return self.per_dim(st.sampled_from([2, 2, 1]), differ=4)
        return (1,) * self.dims

    def groups(self, outputs: int | None) -> tuple[int, int]:
        """(groups, outputs), outputs as given or drawn."""
        if self.one_in(5):  # depthwise
            multiples = [n for n in (1, 2) if n * self.channels <= 8] or [1]
            wanted = outputs if outputs is not None else self.channels * self.draw(st.sampled_from(multiples))
            if wanted % self.channels == 0:
                return self.channels, wanted
        wanted = outputs if outputs is not None else self.draw(st.integers(2, 8))
        divisors = [n for n in range(1, 9) if self.channels % n == 0 and wanted % n == 0]
        return (self.draw(st.sampled_from(divisors)) if self.one_in(4) else 1), wanted

    def free_padding(self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
        spans = [step * (length - 1) for length, step in zip(kernel, dilation, strict=True)]
        forms = ["integer", "tuple", "pairs", "crop"] + (["same", "valid"] if set(stride) == {1} else [])
        match self.draw(st.sampled_from(forms)):
            case "integer":
                return self.draw(st.integers(0, min(spans) // 2 + 1))
            case "tuple":
                return tuple(self.draw(st.integers(0, span // 2 + 1)) for span in spans)
            case "pairs":
                return tuple((self.draw(st.integers(0, span)), self.draw(st.integers(0, span))) for span in spans)
            case "crop":
                return tuple((self.draw(st.integers(-1, 1)), self.draw(st.integers(-1, span))) for span in spans)
            case form:
                return form

    def keeping_padding(self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
        """d(K−1) in all: the output is ⌈L / stride⌉, whatever the kernel."""
        spans = [step * (length - 1) for length, step in zip(kernel, dilation, strict=True)]
        forms = ["before", "after"] + (["same"] if set(stride) == {1} else [])
        if all(span % 2 == 0 for span in spans):
            forms += ["tuple", "tuple", "integer" if len(set(spans)) == 1 else "tuple"]
        match self.draw(st.sampled_from(forms)):
            case "integer":
                return spans[0] // 2
            case "tuple":
                return tuple(span // 2 for span in spans)
            case "before":
                return tuple((span - span // 2, span // 2) for span in spans)
            case "after":
                return tuple((span // 2, span - span // 2) for span in spans)
        return "same"

    def padding_modes(self, kernel: tuple[int, ...], dilation: tuple[int, ...], padding: Any) -> list[str]:
        """The padding modes that torch allows here, zeros much the likeliest."""
        if padding == "valid" or (isinstance(padding, tuple) and isinstance(padding[0], tuple)):
            return ["zeros"]
        widest = [max(pair) for pair in _pairs(padding, kernel, dilation)]
        modes = ["zeros"] * 8 + ["replicate"]
        if all(pad < length for pad, length in zip(widest, self.small, strict=True)):
            modes += ["reflect", "circular"]
        return modes

    def transposed_conv(self) -> ConvSpec:
        self.convs_left -= 1
        kernel = self.per_dim(st.integers(1, min(5, self.max_kernel)), differ=4)
        stride = self.per_dim(st.sampled_from([1, 2]), differ=4)
        dilation = self.per_dim(st.sampled_from([1, 1, 2]), differ=6)
        groups, outputs = self.groups(None)
        padding, extra, sizes = [], [], []
        for length, taps, jump, step in zip(self.small, kernel, stride, dilation, strict=True):
            whole = (length - 1) * jump + step * (taps - 1) + 1
            padding.append(self.draw(st.integers(0, min(step * (taps - 1), (whole - 1) // 2))))
            extra.append(self.draw(st.integers(0, max(jump, step) - 1)))
            sizes.append(whole - 2 * padding[-1] + extra[-1])
        spec = ConvSpec(
            self.channels,
            outputs,
            kernel,
            stride,
            dilation,
            tuple(padding),
            groups=groups,
            bias=self.draw(st.booleans()),
            functional=self.one_in(3),
            transposed=True,
            output_padding=tuple(extra),
        )
        self.small, self.channels = tuple(sizes), outputs
        return spec

    def maxpool(self) -> MaxPoolSpec:
        kernel, padding = self.draw(st.sampled_from([(2, 0), (3, 1), (3, 0)]))
        stride = self.draw(st.sampled_from([2, 2, 1]))
        self.small = tuple((length + 2 * padding - kernel) // stride + 1 for length in self.small)
        return MaxPoolSpec((kernel,) * self.dims, stride, padding, self.draw(st.booleans()), self.draw(st.booleans()))

    def tied(self) -> TiedSpec:
        """Two convs of one kernel that may differ in all else: stride, padding, dilation, bias, norm."""
        first = self.unit(keep_size=True, outputs=self.channels)
        kernels, groups = first.conv.kernel, first.conv.groups
        second = self.unit(keep_size=True, outputs=self.channels)
        conv = replace(second.conv, kernel=kernels, groups=groups)
        padding = tuple(
            (span - span // 2, span // 2)
            for span in (step * (taps - 1) for taps, step in zip(kernels, conv.dilation, strict=True))
        )
        return TiedSpec((first, replace(second, conv=replace(conv, padding=padding, padding_mode="zeros"))))

    def branch(self, stride: tuple[int, ...], outputs: int | None, *, final: bool) -> tuple[UnitSpec, ...]:
        """One or two size-keeping units, the stride on the first."""
        if self.convs_left > 1 and self.draw(st.booleans()):
            opening = self.unit(keep_size=True, stride=stride)
            return (opening, self.unit(keep_size=True, outputs=outputs, stride=(1,) * self.dims, final=final))
        return (self.unit(keep_size=True, outputs=outputs, stride=stride, final=final),)

    def residual(self) -> ResidualSpec:
        small, inputs, stride = self.small, self.channels, self.stride()
        body = self.branch(stride, inputs if self.draw(st.booleans()) else None, final=True)
        if set(stride) == {1} and self.channels == inputs and not self.one_in(4):
            return ResidualSpec(body, None, self.activation(inplace=True))
        outputs, self.small, self.channels = self.channels, small, inputs
        kernels = st.sampled_from([1, 1, 1, 2, 3])
        shortcut = self.unit(keep_size=True, outputs=outputs, stride=stride, final=True, kernels=kernels)
        return ResidualSpec(body, shortcut, self.activation(inplace=True))

    def concat(self) -> ConcatSpec:
        small, inputs, stride = self.small, self.channels, self.stride()
        branches, outputs = [], 0
        for _ in range(self.draw(st.integers(2, 3))):
            self.small, self.channels = small, inputs
            branches.append(self.branch(stride, self.draw(st.integers(2, 3)), final=False))
            outputs += self.channels
        self.channels = outputs
        return ConcatSpec(tuple(branches))


def _pairs(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Pairs:
    """Any form of padding as (before, after) pairs."""
    if padding == "same":
        spans = [step * (length - 1) for length, step in zip(kernel, dilation, strict=True)]
        return tuple((span // 2, span - span // 2) for span in spans)
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if isinstance(padding, int):
        return ((padding, padding),) * len(kernel)
    return tuple(pad if isinstance(pad, tuple) else (pad, pad) for pad in padding)


def _sizes(
    lengths: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], padding: Any
) -> tuple[int, ...]:
    return tuple(
        (length + before + after - step * (taps - 1) - 1) // jump + 1
        for length, taps, jump, step, (before, after) in zip(
            lengths, kernel, stride, dilation, _pairs(padding, kernel, dilation), strict=True
        )
    )
