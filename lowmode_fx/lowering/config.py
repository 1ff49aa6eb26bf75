"""Everything that decides what a low graph is, in one frozen and validated record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from lowmode_fx.utils.validation import as_choice, as_count, as_flag, check_names
from passes.choices import Gain, NamedConvs, NamedMaxPools, NamedTransform, Rounding
from passes.errors import OptionError, OptionTypeError
from passes.ratios import Ratio, RatioLike, largest_ratio, plain_ratio, read_ratio
from passes.spelling import setting

if TYPE_CHECKING:  # a command line reads options without waiting for torch
    from passes.kernel_math import KernelTransform
    from passes.pooling_rule import PoolingRule

#: Counts that are younger than the other options.
_YOUNGER = ("size_multiple", "min_side")
BatchNormMode = Literal["isolate", "share"]
InputMethod = Literal["gaussian", "bilinear", "area"]


def _option(help: str, flag: str = "", choices: Any = None) -> dict[str, Any]:
    """What a command line says of a field. flag: the switch that turns it from its default; choices: a ``Literal``."""
    return {"help": help, "flag": flag, "choices": choices}


@dataclass(frozen=True)
class LowModeConfig:
    """How low-mode differs from full-mode.

    ratio: images shrink to ⌈H/ratio⌉ × ⌈W/ratio⌉ (§2.2.1); a number above 1, as 2, ``4 / 3``, ``Fraction(4, 3)`` or
        ``"4/3"``, or one a side, as ``(1, 2)``, where a side has one row or is time. A float stands for the fraction of
        smallest denominator, up to 100, that it equals; one that equals none is refused.
    kernel_ratio: r of the kernels (§2.2.2), of the same kinds; ``None`` takes ``ratio``, 1 keeps every kernel.
    rounding: K' = ⌈K/r⌉ or ⌊K/r⌋, less one when even; ``"cover"``: the smallest odd K' that reaches as far as K does
        (r = 2: 3 → 3, 5 → 3, 7 → 5).
    kernel_transform: ``"avg"`` (the paper's pooling), ``"adaptive"``, ``"center"``, ``"bicubic"`` (the kernel resized
        as an image), ``"linear"`` and ``"pi_resize"`` (what the kernel does to a map of full size, done to a
        downsampled one: by linear interpolation, by least squares), or a function
        ``(kernel (F, C, *K), K') → (F, C, *K')``.
    gain: what pooling preserves: ``"mean"``, ``"sum"`` or, on average, ``"norm"`` of the taps; ``"linear"`` and
        ``"pi_resize"`` keep the sum always. No difference where a batch norm follows.
    pool_convs: ``"dense"``, ``"all"``, ``"large"`` (of the dense ones those with five taps or more on some side), or
        globs over module names; see ``passes.pooling_rule``.
    keep_convs: globs over module names that stay whole.
    drop_maxpools: ``"none"``, ``"stem"``, ``"all"``, or globs over module names.
    strides: ``{glob: stride}`` for low-mode; of several globs that match, the last one counts.
    batchnorm: ``"isolate"`` leaves the running statistics to full-mode, ``"share"`` updates them in both.
    input_method: ``"gaussian"`` (blur and decimation), ``"bilinear"``, ``"area"``; see ``downsample``.
    size_multiple: of low-mode's sides, which are rounded to the nearest, where a model halves its maps often.
    min_side: of the maps that convolutions give, in pixels: images shrink by the largest ratio, up to ``ratio``, that
        leaves each of them so much in low-mode; those that full-mode has smaller don't count.
    downsample_input: ``False`` pools kernels for images of full size, where a model fixes its input size.
    restore_output: interpolate maps that low-mode returns to their full-mode size, for dense prediction.
    adapt_head: resize a map that is flattened to its full-mode size there, instead of refusing the model.

    Raises ``ValueError`` or ``TypeError`` for anything else.
    """

    ratio: RatioLike = field(
        default=2, metadata=_option("Of the images' sides: 2, 4/3, or one a side: 1x2. (default 2)")
    )
    kernel_ratio: RatioLike | None = field(
        default=None, metadata=_option("Of the kernels; 1 keeps them. (default: ratio)")
    )
    rounding: Rounding = field(
        default="ceil", metadata=_option("How K' comes from K / r. (default ceil)", choices=Rounding)
    )
    kernel_transform: NamedTransform | KernelTransform = field(
        default="avg", metadata=_option("How a kernel is made smaller. (default avg)", choices=NamedTransform)
    )
    gain: Gain = field(default="mean", metadata=_option("What pooling preserves. (default mean)", choices=Gain))
    pool_convs: NamedConvs | Sequence[str] = field(
        default="dense", metadata=_option("dense, all, large, or globs: a,b. (default dense)")
    )
    keep_convs: Sequence[str] = field(default=(), metadata=_option("Globs of convs to keep."))
    drop_maxpools: NamedMaxPools | Sequence[str] = field(
        default="none", metadata=_option("none, stem, all or globs. (default none)")
    )
    strides: Mapping[str, int | tuple[int, ...]] = field(
        default_factory=dict, metadata=_option("Globs with their stride in low-mode: conv1=1,layer2.0.*=1.")
    )
    batchnorm: BatchNormMode = field(
        default="isolate",
        metadata=_option("Whether low steps move running statistics. (default isolate)", choices=BatchNormMode),
    )
    input_method: InputMethod = field(
        default="gaussian", metadata=_option("How images are made smaller. (default gaussian)", choices=InputMethod)
    )
    size_multiple: int = field(default=1, metadata=_option("Round low-mode's sides to multiples of it. (default 1)"))
    min_side: int = field(default=1, metadata=_option("Least side of every map, in pixels. (default 1)"))
    downsample_input: bool = field(default=True, metadata=_option("Pool kernels alone.", flag="whole_images"))
    restore_output: bool = field(
        default=False, metadata=_option("Bring maps that are returned to full size.", flag="restore_output")
    )
    adapt_head: bool = field(default=False, metadata=_option("Resize a map that is flattened.", flag="adapt_head"))

    def __post_init__(self) -> None:
        ratio = read_ratio(self.ratio)
        if largest_ratio(ratio) == 1:
            whole = setting("downsample_input", False)
            hint = f"give one above 1 on some side, or, to pool kernels on whole images, {whole}"
            raise OptionError("ratio", self.ratio, "leaves images as they are", hint)
        self._set("ratio", ratio)
        if self.kernel_ratio is not None:
            self._set("kernel_ratio", read_ratio(self.kernel_ratio, "kernel_ratio"))
            _check_sides(ratio, self.kernel_ratio)
        for name in _YOUNGER:
            self._set(name, as_count(name, getattr(self, name), 1))
        as_choice("rounding", self.rounding, get_args(Rounding))
        if not callable(self.kernel_transform):
            choices = get_args(NamedTransform)
            as_choice("kernel_transform", self.kernel_transform, choices, "a function (kernel, size) → kernel")
        as_choice("gain", self.gain, get_args(Gain))
        as_choice("batchnorm", self.batchnorm, get_args(BatchNormMode))
        as_choice("input_method", self.input_method, get_args(InputMethod))
        for name in ("downsample_input", "restore_output", "adapt_head"):
            as_flag(name, getattr(self, name))
        self._set("pool_convs", _names("pool_convs", self.pool_convs, get_args(NamedConvs)))
        self._set("keep_convs", _names("keep_convs", self.keep_convs, ()))
        self._set("drop_maxpools", _names("drop_maxpools", self.drop_maxpools, get_args(NamedMaxPools)))
        self._set("strides", _strides(self.strides))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def paper(cls) -> LowModeConfig:
        """The paper's setting (§4): r = 2, the blocks' 3×3 convs to 1×1, no max pool in the stem, shared norms."""
        return cls(ratio=2, pool_convs="dense", drop_maxpools="stem", batchnorm="share", input_method="gaussian")

    @property
    def pooling_rule(self) -> PoolingRule:
        """Which kernels are pooled, and how."""
        from passes.pooling_rule import PoolingRule

        return PoolingRule(
            ratio=self.effective_kernel_ratio,
            rounding=self.rounding,
            transform=self.kernel_transform,
            gain=self.gain,
            pool_convs=self.pool_convs,
            keep_convs=self.keep_convs,
        )

    @property
    def effective_kernel_ratio(self) -> Ratio:
        """r of the kernels: ``kernel_ratio``, or ``ratio`` where that is ``None``."""
        return read_ratio(self.ratio if self.kernel_ratio is None else self.kernel_ratio)

    @property
    def pools_kernels(self) -> bool:
        """Is r of the kernels above 1 on some side?"""
        return largest_ratio(self.effective_kernel_ratio) > 1

    @property
    def downsampling(self) -> dict[str, Any]:
        """The arguments of ``downsample`` beside the images: plain values, for graphs and for other processes."""
        ratio = plain_ratio(self.ratio) if self.downsample_input else 1
        return {"ratio": ratio, "method": self.input_method, "size_multiple": self.size_multiple}

    def low_sides(self, sides: Sequence[int]) -> tuple[int, ...]:
        """The sides of low-mode's images, in pixels, for full-mode ones of ``sides``; raises as ``downsample`` does."""
        from lowmode_fx.lowering.downsampling import downsampled_sides

        return downsampled_sides(sides, self.ratio if self.downsample_input else 1, self.size_multiple)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON. Raises ``TypeError`` where ``kernel_transform`` is a function."""
        if callable(self.kernel_transform):
            named = ", ".join(map(repr, get_args(NamedTransform)))
            raise TypeError(f"kernel_transform is a function, which can't be saved; give one of {named}")
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values |= {name: plain_ratio(values[name]) for name in ("ratio", "kernel_ratio") if values[name] is not None}
        for name in _YOUNGER:  # what was saved before compares equal
            if values[name] == 1:
                del values[name]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {**plain, "strides": {glob: _plain_stride(stride) for glob, stride in self.strides.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LowModeConfig:
        """The inverse of ``to_dict``. Raises ``ValueError`` for a key that is no option."""
        check_names("LowModeConfig", values, [entry.name for entry in fields(cls)])
        return cls(**values)


def _check_sides(ratio: Ratio, kernel_ratio: RatioLike) -> None:
    if isinstance(ratio, tuple) and isinstance(kernel_ratio, tuple) and len(ratio) != len(kernel_ratio):
        ours, theirs = plain_ratio(ratio), plain_ratio(kernel_ratio)
        raise OptionError(
            "kernel_ratio",
            theirs,
            f"is for {len(kernel_ratio)} sides, and {setting('ratio', ours)} for {len(ratio)}",
            "give both for as many as the images have",
        )


def _names(name: str, value: Any, named: tuple[str, ...]) -> Any:
    globs = "a list of globs over module names"
    if isinstance(value, str):
        return as_choice(name, value, named, f"{globs}, as in [{value!r}]")
    if not isinstance(value, Sequence) or not all(isinstance(pattern, str) for pattern in value):
        raise OptionTypeError(name, value, "is no list of names", f"give {globs}, as in ['layer4.*']")
    return tuple(value)


def _strides(strides: Mapping[str, Any]) -> dict[str, int | tuple[int, ...]]:
    if not isinstance(strides, Mapping):
        raise OptionTypeError("strides", strides, "is no mapping", "give strides by glob, as in {'conv1': 1}")
    for glob, stride in strides.items():
        if not isinstance(glob, str):
            raise TypeError(f"strides has the key {glob!r}; give globs over module names, as in {{'conv1': 1}}")
        sides = (stride,) if isinstance(stride, int) else stride
        if not isinstance(sides, list | tuple) or not sides or any(type(s) is not int or s < 1 for s in sides):
            raise ValueError(f"strides[{glob!r}]={stride!r} is out of range; give an int of at least 1, or one a side")
    return {glob: stride if isinstance(stride, int) else tuple(stride) for glob, stride in strides.items()}


def _plain_stride(stride: int | tuple[int, ...]) -> int | list[int]:
    return stride if isinstance(stride, int) else list(stride)
