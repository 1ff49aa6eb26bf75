"""What low-mode does to each call of a model: decided once, from the graphs, by the rules of the passes."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from torch import fx, nn

from lowmode_fx.lowering.config import LowModeConfig
from passes import PassReport
from passes.calls import AVG_POOL_MODULES, AVG_POOLS, MAX_POOL_MODULES
from passes.choices import NamedMaxPools
from passes.drop_maxpools import chosen_maxpools
from passes.match import ConvSite, MaxPoolSite, conv_sites, max_pool_sites, module_path, opaque_convs
from passes.patterns import matches
from passes.pool_weights import reasons_to_keep
from passes.pooling_rule import UNTRAINED, PoolingRule
from passes.set_strides import chosen_strides

Sizes = tuple[int, ...]
#: What low-mode does to a pool; a ``global`` one covers its whole map.
PoolEdit = Literal["keep", "drop", "global"]


class ConvEdit(NamedTuple):
    """What low-mode does to a convolution: another stride, a pooled kernel, a resize of its output.

    ``fixed``: the kernel stays whole because no parameter of the graph reaches it.
    """

    stride: Sizes | None = None
    pooled: bool = False
    resized: Sizes | None = None
    fixed: bool = False

    @property
    def changes(self) -> bool:
        return self.stride is not None or self.pooled or self.resized is not None


class Resize(NamedTuple):
    """A map that is resized to its full-mode size before or after a call."""

    when: Literal["before", "after"]
    size: Sizes


KEEP = ConvEdit()


class PlaceEdits(NamedTuple):
    """All that is planned for the calls of one place, parameters by name aside."""

    calls: tuple[tuple[Any, ...], ...]
    kernel: ConvEdit | None
    whole: bool
    padded_drop: bool

    @property
    def is_alike(self) -> bool:
        """Whether all calls of a kind have one edit, so that they needn't be counted."""
        return all(len(edits) <= 1 for edits in self.calls)


@dataclass(frozen=True)
class Plan:
    """Edits of a model's calls, by kernel parameter, or by the place where the call is made.

    A place is the path of the innermost module whose code makes the call; it has one edit for each call of its kind, in
    the order of the forward. ``kernels`` holds convolutions whose kernel is a parameter itself, ``convs`` the others.
    ``modules`` are calls of modules whose input or output is resized, ``functions`` the same for functions by place and
    name. ``whole`` are modules that are not entered: nothing inside them changes. ``padded_drops`` are dropped max
    pools with their own padding, which is dropped with them. ``rule``, ``strides`` and ``drop_maxpools`` apply to calls
    that are not in the graphs.
    """

    rule: PoolingRule
    strides: Mapping[str, int | tuple[int, ...]]
    drop_maxpools: NamedMaxPools | Sequence[str]
    kernels: Mapping[str, ConvEdit] = field(default_factory=dict)
    convs: Mapping[str, tuple[ConvEdit, ...]] = field(default_factory=dict)
    max_pools: Mapping[str, tuple[PoolEdit, ...]] = field(default_factory=dict)
    avg_pools: Mapping[str, tuple[PoolEdit, ...]] = field(default_factory=dict)
    modules: Mapping[str, tuple[Resize | None, ...]] = field(default_factory=dict)
    functions: Mapping[tuple[str, str], tuple[Resize | None, ...]] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    padded_drops: frozenset[str] = frozenset()

    @property
    def meets_max_pools(self) -> bool:
        """Whether any max pool may be changed."""
        return self.drop_maxpools != "none" or any(set(edits) != {"keep"} for edits in self.max_pools.values())

    def at(self, place: str) -> PlaceEdits:
        """What is planned for the calls of a place."""
        named = (self.convs, self.max_pools, self.avg_pools, self.modules)
        functions = tuple(edits for (where, _), edits in sorted(self.functions.items()) if where == place)
        return PlaceEdits(
            calls=(*(tuple(edits.get(place, ())) for edits in named), *functions),
            kernel=self.kernels.get(f"{place}.weight"),
            whole=any(matches(place, whole) for whole in self.whole),
            padded_drop=place in self.padded_drops,
        )

    def matching(self, path: str) -> tuple[str, ...]:
        """The globs of the configuration that match a module's path."""
        named = (self.rule.pool_convs, self.drop_maxpools)
        globs = (
            *self.strides,
            *self.rule.keep_convs,
            *(glob for each in named if not isinstance(each, str) for glob in each),
        )
        return tuple(glob for glob in globs if matches(path, glob))


def make_plan(full: fx.GraphModule, low: fx.Graph, config: LowModeConfig, reports: Iterable[PassReport]) -> Plan:
    """The plan that makes the model do what the low graph does.

    ``full``: the captured graph. ``low``: the graph after the passes. ``reports``: the reports of the passes.
    """
    sites, pools = conv_sites(full), max_pool_sites(full)
    dropped = chosen_maxpools(full, pools, config.drop_maxpools)
    resizes = dict(_resizes(low))
    kernels, convs = _conv_edits(full, sites, config, resizes)
    made_global = {change.node for report in reports if report.name == "adapt_heads" for change in report.changes}
    modules, functions = _other_resizes(full, {site.node for site in sites}, resizes)
    return Plan(
        rule=config.pooling_rule,
        strides=config.strides,
        drop_maxpools=config.drop_maxpools,
        kernels=kernels | dict.fromkeys(_opaque_parameters(full), KEEP),
        convs=convs,
        max_pools=_max_pool_edits(pools, dropped, made_global),
        avg_pools=_avg_pool_edits(full, made_global),
        modules=modules,
        functions=functions,
        whole=frozenset(_leaves(full, {site.node for site in pools})),
        padded_drops=frozenset(_padded_drops(full, dropped)),
    )


def place_of(node: fx.Node) -> str:
    """Path of the innermost module whose code makes the node's call; empty for the model's own."""
    if node.op == "call_module":
        return str(node.target)
    return (module_path(node) or "").partition("@")[0]  # torch.export appends the count of a module's calls to its path


def _conv_edits(
    full: fx.GraphModule, sites: Sequence[ConvSite], config: LowModeConfig, resizes: Mapping[str, Resize]
) -> tuple[dict[str, ConvEdit], dict[str, tuple[ConvEdit, ...]]]:
    strides = {site.node: stride for site, stride in chosen_strides(sites, config.strides)}
    restrided = [replace(site, stride=strides.get(site.node, site.stride)) for site in sites]
    edits: list[tuple[ConvSite, ConvEdit]] = []
    for site, reason in zip(sites, reasons_to_keep(full, restrided, config.pooling_rule), strict=True):
        resize = resizes.get(site.node.name)
        edit = ConvEdit(strides.get(site.node), reason is None, resize.size if resize else None, reason == UNTRAINED)
        edits.append((site, edit))
    by_parameter: dict[str, set[ConvEdit]] = defaultdict(set)
    for site, edit in edits:
        if _is_parameter(full, site.weight):
            by_parameter[str(site.weight.target)].add(edit)
    # A kernel that several calls share has one edit if all have the same; otherwise each call has its own, by place.
    kernels = {name: found.pop() for name, found in by_parameter.items() if len(found) == 1}
    placed = [
        (place_of(site.node), edit)
        for site, edit in edits
        if not (_is_parameter(full, site.weight) and str(site.weight.target) in kernels)
    ]
    return kernels, _in_order(placed)


def _is_parameter(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(operator.attrgetter(str(node.target))(graph_module), nn.Parameter)


def _max_pool_edits(
    sites: Iterable[MaxPoolSite], dropped: Collection[fx.Node], made_global: Collection[str]
) -> dict[str, tuple[PoolEdit, ...]]:
    edits: list[tuple[str, PoolEdit]] = []
    for site in sites:
        kept: PoolEdit = "global" if site.node.name in made_global else "keep"
        edits.append((place_of(site.node), "drop" if site.node in dropped else kept))
    return _in_order(edits)


def _padded_drops(full: fx.GraphModule, dropped: Iterable[fx.Node]) -> Iterator[str]:
    for node in dropped:
        if node.op == "call_module" and type(full.get_submodule(str(node.target))) not in MAX_POOL_MODULES:
            yield str(node.target)


def _avg_pool_edits(full: fx.GraphModule, made_global: set[str]) -> dict[str, tuple[PoolEdit, ...]]:
    edits: list[tuple[str, PoolEdit]] = []
    for node in full.graph.nodes:
        if _is_avg_pool(full, node):
            edits.append((place_of(node), "global" if node.name in made_global else "keep"))
    return {place: found for place, found in _in_order(edits).items() if "global" in found}


def _is_avg_pool(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(graph_module.get_submodule(str(node.target))) in AVG_POOL_MODULES
    return node.op == "call_function" and node.target in AVG_POOLS


def _resizes(low: fx.Graph) -> Iterator[tuple[str, Resize]]:
    """For each call whose input or output low-mode resizes: the name of its node, and how."""
    for node in low.nodes:
        change = node.meta.get("resized")
        if change is not None:
            behind = node.all_input_nodes[0].name == change.node
            yield change.node, Resize("after" if behind else "before", tuple(node.kwargs["size"]))


def _other_resizes(
    full: fx.GraphModule, convs: Collection[fx.Node], resizes: Mapping[str, Resize]
) -> tuple[dict[str, tuple[Resize | None, ...]], dict[tuple[str, str], tuple[Resize | None, ...]]]:
    """The resizes that do not follow a convolution, by module and by function."""
    modules: list[tuple[str, Resize | None]] = []
    functions: list[tuple[tuple[str, str], Resize | None]] = []
    for node in full.graph.nodes if resizes else ():
        if node.op == "call_module":
            modules.append((str(node.target), resizes.get(node.name)))
        elif node.op in ("call_function", "call_method") and node not in convs:
            functions.append(((place_of(node), function_name(node.target)), resizes.get(node.name)))
    return _only_resized(modules), _only_resized(functions)


def function_name(target: Any) -> str:
    """One name for a function, however it is reached: ``operator.add``, ``Tensor.add_``, ``aten.add.Tensor``."""
    name: str = target if isinstance(target, str) else getattr(target, "_opname", None) or target.__name__
    name = name.strip("_")
    return name[1:] if getattr(operator, f"__{name}__", None) is target and name.startswith("i") else name


def _opaque_parameters(full: fx.GraphModule) -> Iterator[str]:
    """Names of the kernels of convolutions inside modules that are not entered."""
    for path in opaque_convs(full):
        yield from (f"{path}.{name}" for name, _ in full.get_submodule(path).named_parameters())


def _leaves(full: fx.GraphModule, pools: Collection[fx.Node]) -> Iterator[str]:
    for node in full.graph.nodes:
        if node.op == "call_module" and node not in pools and not _is_avg_pool(full, node):
            yield str(node.target)


def _in_order(edits: Iterable[tuple[Any, Any]]) -> dict[Any, tuple[Any, ...]]:
    grouped: dict[Any, list[Any]] = defaultdict(list)
    for place, edit in edits:
        grouped[place].append(edit)
    # A single edit applies to any number of calls.
    return {place: tuple(found) if len(set(found)) > 1 else (found[0],) for place, found in grouped.items()}


def _only_resized(edits: Iterable[tuple[Any, Resize | None]]) -> dict[Any, tuple[Resize | None, ...]]:
    return {place: found for place, found in _in_order(edits).items() if any(found)}
