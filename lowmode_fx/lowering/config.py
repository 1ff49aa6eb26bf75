"""``LowModeConfig``: every option of a low mode, in one frozen and validated record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from lowmode_fx.utils.validation import as_choice, as_count, as_flag, check_names, wrong_type
from passes.choices import Gain, NamedConvs, NamedMaxPools, NamedTransform, Rounding
from passes.errors import OptionError, OptionTypeError
from passes.ratios import Ratio, RatioLike, largest_ratio, plain_ratio, read_ratio
from passes.spelling import setting

if TYPE_CHECKING:  # the command line reads options without importing torch
    from passes.kernel_math import KernelTransform
    from passes.pooling_rule import PoolingRule

#: Options that were added later: ``to_dict`` leaves them out at their defaults, so that older files compare equal.
_YOUNGER = ("size_multiple", "min_side")
BatchNormMode = Literal["isolate", "share"]
InputMethod = Literal["gaussian", "bilinear", "area"]


def _option(help: str, flag: str = "", choices: Any = None) -> dict[str, Any]:
    """A field's metadata for the command line: its help, its switch if any, and the ``Literal`` of its choices."""
    return {"help": help, "flag": flag, "choices": choices}


@dataclass(frozen=True)
class LowModeConfig:
    """Configuration of a low mode: how it differs from full-mode.

    Args:
        ratio: r of the images (§2.2.1): sides become ⌈H/r⌉ × ⌈W/r⌉. At least 1 on each side and above 1 on one:
            2, ``4 / 3``, ``Fraction(4, 3)`` or ``"4/3"``, or one per side, such as ``(1, 2)``, where one side is a
            single row or time. A float stands for the fraction of smallest denominator, up to 100, that it equals; a
            float that equals none is an error.
        kernel_ratio: r of the kernels (§2.2.2), of the same types. ``None`` takes ``ratio``; 1 keeps every kernel.
        rounding: ``"ceil"`` or ``"floor"``: K' = ⌈K/r⌉ or ⌊K/r⌋, less one when even. ``"cover"``: the smallest odd K'
            that reaches as far as K does (r = 2: 3 → 3, 5 → 3, 7 → 5).
        kernel_transform: ``"avg"`` (the paper's pooling), ``"adaptive"``, ``"center"``, ``"bicubic"`` (the kernel
            resized as an image), ``"linear"`` and ``"pi_resize"`` (the kernel whose effect on a downsampled map matches
            the full kernel's effect on the full map, by linear interpolation or by least squares), or a differentiable
            function ``(kernel (F, C, *K), K') → (F, C, *K')``.
        gain: What the transform preserves of the taps: their ``"mean"``, their ``"sum"`` or, on average, their
            ``"norm"``. ``"linear"`` and ``"pi_resize"`` always preserve the sum. It makes no difference where a batch
            norm follows.
        pool_convs: Convolutions to pool: ``"dense"`` (kernel larger than its stride, not the stem, no depthwise kernel
            to one tap), ``"large"`` (the dense ones with five taps or more on some side), ``"all"``, or globs over
            module names. See ``passes.pooling_rule``.
        keep_convs: Globs over module names whose kernels stay whole.
        drop_maxpools: Max pools to drop: ``"none"``, ``"stem"`` (the paper's choice), ``"all"``, or globs over module
            names.
        strides: Strides in low-mode, ``{glob: stride}``. The last matching glob applies.
        batchnorm: ``"isolate"``: low steps normalise with batch statistics and leave the running statistics to
            full-mode. ``"share"``: both modes update them.
        input_method: How images are downsampled: ``"gaussian"`` (blur and decimation), ``"bilinear"`` or ``"area"``.
            See ``downsample``.
        size_multiple: The sides of low-mode's images are rounded to the nearest multiple of this, for models that halve
            their maps often.
        min_side: Smallest side, in pixels, that a convolution's output map may have in low-mode. Images shrink by
            ``ratio`` if every map keeps this size, and else by the largest ratio that divides no map below it; maps
            that are smaller in full-mode are ignored.
        downsample_input: ``False`` keeps images at full size and pools kernels only, for models with a fixed input
            size.
        restore_output: Interpolate the maps that low-mode returns to their full-mode size, for dense prediction.
        adapt_head: Where the model fixes the size of a map (a flatten, a position table), resize the map to its
            full-mode size instead of refusing the model.

    Raises:
        ValueError: A value is out of range or unknown.
        TypeError: A value has the wrong type.
    """

    ratio: RatioLike = field(
        default=2, metadata=_option("Ratio by which image sides shrink: 2, 4/3, or one per side, as 1x2. (default 2)")
    )
    kernel_ratio: RatioLike | None = field(
        default=None, metadata=_option("Ratio by which kernels shrink; 1 keeps them. (default: ratio)")
    )
    rounding: Rounding = field(
        default="ceil",
        metadata=_option("How K / r is rounded to the pooled kernel size K'. (default ceil)", choices=Rounding),
    )
    kernel_transform: NamedTransform | KernelTransform = field(
        default="avg",
        metadata=_option("Kernel transform that computes the pooled kernel. (default avg)", choices=NamedTransform),
    )
    gain: Gain = field(
        default="mean",
        metadata=_option("What the kernel transform preserves of the taps. (default mean)", choices=Gain),
    )
    pool_convs: NamedConvs | Sequence[str] = field(
        default="dense", metadata=_option("Convolutions to pool: dense, all, large, or globs a,b. (default dense)")
    )
    keep_convs: Sequence[str] = field(default=(), metadata=_option("Convolutions to keep whole, as globs a,b."))
    drop_maxpools: NamedMaxPools | Sequence[str] = field(
        default="none", metadata=_option("Max pools to drop: none, stem, all, or globs a,b. (default none)")
    )
    strides: Mapping[str, int | tuple[int, ...]] = field(
        default_factory=dict, metadata=_option("Strides of convolutions in low-mode, by glob: conv1=1,layer2.0.*=1.")
    )
    batchnorm: BatchNormMode = field(
        default="isolate",
        metadata=_option("Whether low steps update running statistics. (default isolate)", choices=BatchNormMode),
    )
    input_method: InputMethod = field(
        default="gaussian", metadata=_option("Method that downsamples images. (default gaussian)", choices=InputMethod)
    )
    size_multiple: int = field(
        default=1, metadata=_option("Round the sides of low-mode's images to multiples of this. (default 1)")
    )
    min_side: int = field(
        default=1, metadata=_option("Smallest side of a feature map in low-mode, in pixels. (default 1)")
    )
    downsample_input: bool = field(
        default=True, metadata=_option("Keep images at full size and pool kernels only.", flag="whole_images")
    )
    restore_output: bool = field(
        default=False,
        metadata=_option("Resize the maps that low-mode returns to full-mode's size.", flag="restore_output"),
    )
    adapt_head: bool = field(
        default=False, metadata=_option("Resize a map of fixed size instead of refusing the model.", flag="adapt_head")
    )

    def __post_init__(self) -> None:
        ratio = read_ratio(self.ratio)
        if largest_ratio(ratio) == 1:
            whole = setting("downsample_input", False)
            hint = f"give one above 1 for some side, with {whole} to pool the kernels of full-size images alone"
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
        """Return the paper's setting (§4): r = 2, 3×3 kernels of blocks to 1×1, no stem max pool, shared norms."""
        return cls(ratio=2, pool_convs="dense", drop_maxpools="stem", batchnorm="share", input_method="gaussian")

    @property
    def pooling_rule(self) -> PoolingRule:
        """The rule that says which kernels are pooled, and how."""
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
        """r of the kernels: ``kernel_ratio``, or ``ratio`` if that is ``None``."""
        return read_ratio(self.ratio if self.kernel_ratio is None else self.kernel_ratio)

    @property
    def pools_kernels(self) -> bool:
        """Whether r of the kernels is above 1 on some side."""
        return largest_ratio(self.effective_kernel_ratio) > 1

    @property
    def downsampling(self) -> dict[str, Any]:
        """Keyword arguments for ``downsample``, as plain values for graphs and other processes."""
        ratio = plain_ratio(self.ratio) if self.downsample_input else 1
        return {"ratio": ratio, "method": self.input_method, "size_multiple": self.size_multiple}

    def low_sides(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Compute the sides of low-mode's images.

        Args:
            sides: The sides of full-mode's images, in pixels.

        Returns:
            The sides of low-mode's images, in pixels.

        Raises:
            ValueError: The ratio does not fit these sides, as in ``downsample``.
        """
        from lowmode_fx.lowering.downsampling import downsampled_sides

        return downsampled_sides(sides, self.ratio if self.downsample_input else 1, self.size_multiple)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values, for JSON.

        Raises:
            TypeError: ``kernel_transform`` is a function.
        """
        if callable(self.kernel_transform):
            named = ", ".join(map(repr, get_args(NamedTransform)))
            raise TypeError(f"kernel_transform is a function, which can't be serialised; give one of {named}")
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values |= {name: plain_ratio(values[name]) for name in ("ratio", "kernel_ratio") if values[name] is not None}
        for name in _YOUNGER:  # so that older files compare equal
            if values[name] == 1:
                del values[name]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {**plain, "strides": {glob: _plain_stride(stride) for glob, stride in self.strides.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LowModeConfig:
        """Make a configuration from ``to_dict()``'s values.

        Raises:
            ValueError: A key is not an option, or a value is invalid.
            TypeError: ``values`` is not a mapping.
        """
        if not isinstance(values, Mapping):
            raise wrong_type("values", values, "a mapping, as to_dict() returns")
        check_names("LowModeConfig", values, [entry.name for entry in fields(cls)])
        return cls(**values)


def _check_sides(ratio: Ratio, kernel_ratio: RatioLike) -> None:
    if isinstance(ratio, tuple) and isinstance(kernel_ratio, tuple) and len(ratio) != len(kernel_ratio):
        ours, theirs = plain_ratio(ratio), plain_ratio(kernel_ratio)
        raise OptionError(
            "kernel_ratio",
            theirs,
            f"has {len(kernel_ratio)} sides, but {setting('ratio', ours)} has {len(ratio)}",
            "give both one value per side of the images",
        )


def _names(name: str, value: Any, named: tuple[str, ...]) -> Any:
    globs = "a list of globs over module names"
    if isinstance(value, str):
        return as_choice(name, value, named, f"{globs}, as in [{value!r}]")
    if not isinstance(value, Sequence) or not all(isinstance(pattern, str) for pattern in value):
        raise OptionTypeError(name, value, "is not a list of names", f"give {globs}, as in ['layer4.*']")
    return tuple(value)


def _strides(strides: Mapping[str, Any]) -> dict[str, int | tuple[int, ...]]:
    if not isinstance(strides, Mapping):
        raise OptionTypeError("strides", strides, "is not a mapping", "give strides by glob, as in {'conv1': 1}")
    for glob, stride in strides.items():
        if not isinstance(glob, str):
            raise TypeError(f"strides has the key {glob!r}; give globs over module names, as in {{'conv1': 1}}")
        sides = (stride,) if isinstance(stride, int) else stride
        if not isinstance(sides, list | tuple) or not sides or any(type(s) is not int or s < 1 for s in sides):
            raise ValueError(
                f"strides[{glob!r}]={stride!r} is out of range; give an int of at least 1, or one per side"
            )
    return {glob: stride if isinstance(stride, int) else tuple(stride) for glob, stride in strides.items()}


def _plain_stride(stride: int | tuple[int, ...]) -> int | list[int]:
    return stride if isinstance(stride, int) else list(stride)
