"""Weights that a user names: a state dict in a file, or the newest checkpoint of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowmode_fx.train.checkpoint import FORMAT, CheckpointError, has_checkpoint, load_checkpoint
from lowmode_fx.train.names import MODEL_FILE
from lowmode_fx.train.weights_file import FORMS, load_file
from passes.errors import OptionError
from passes.wording import any_of

#: What training scripts call a model's part of a checkpoint.
_PARTS = ("state_dict", "model", "model_state_dict", "net")


def read_weights(option: str, path: Path) -> dict[str, Tensor]:
    """A model's state dict, on the CPU: of a file, or of a run folder its newest whole checkpoint's.

    In a file of several things it is the part named ``state_dict``, ``model``, ``model_state_dict`` or ``net``, or the
    only state dict. Prefixes of DDP and ``torch.compile`` are taken off.

    option: the one that names the path. Raises ``OptionError`` for what can't be read, or isn't known.
    """
    if path.is_dir():
        if not has_checkpoint(path):
            raise OptionError(option, path, "is a folder without a checkpoint", f"give {FORMS}")
        return load_checkpoint(path, else_do="give other weights").weights
    if not path.is_file():
        raise OptionError(option, path, "does not exist", f"give {FORMS}")
    loaded = load_file(option, path)
    if isinstance(loaded, Mapping) and loaded.get("format") == FORMAT:
        raise OptionError(option, path, "is a run's state without its weights", f"give {MODEL_FILE} beside it")
    return _without_wrappers(_state_dict(option, path, loaded))


def _state_dict(option: str, path: Path, loaded: Any) -> Mapping[str, Tensor]:
    if _is_state_dict(loaded):
        return dict(loaded)
    parts = loaded if isinstance(loaded, Mapping) else {}
    named = [parts[name] for name in _PARTS if _is_state_dict(parts.get(name))]
    found = named or [part for part in parts.values() if _is_state_dict(part)]
    if len(found) == 1 or named:
        return dict(found[0])
    several = f"holds {len(found)} state dicts, and none is named {any_of(_PARTS)}"
    problem = several if found else "holds no state dict"
    raise OptionError(option, path, problem, f"give {FORMS}")


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(each, Tensor) for name, each in value.items())


def _without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from timm.models import clean_state_dict

    return dict(clean_state_dict(dict(weights)))


def load_all_but_head(model: nn.Module, weights: Mapping[str, Tensor], classes: int, place: str) -> tuple[str, ...]:
    """Load a state dict into a model of so many classes; a head of another number of classes stays as it was.

    place: where it is from, for messages. Returns the names of what was left out: tensors that differ in their first
    side alone, which is ``classes`` in the model, and one other number in the state dict. Counters of batches
    (``num_batches_tracked``), which old files lack, may be missing.

    Raises ``CheckpointError`` that names what else doesn't fit.
    """
    wanted = model.state_dict()
    unknown = sorted(set(weights) - set(wanted))
    lacking = [name for name in wanted if name not in weights and not name.endswith(".num_batches_tracked")]
    if unknown or lacking:
        what = f"lacks {lacking[0]!r}" if lacking else f"has an unknown {unknown[0]!r}"
        raise CheckpointError(f"{place} is of another model: it {what}; give weights of this one")
    shapes = {name: (tuple(tensor.shape), tuple(wanted[name].shape)) for name, tensor in weights.items()}
    differing = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    others = {there[:1] for there, _ in differing.values()}
    for name, (there, here) in differing.items():
        if there[1:] != here[1:] or here[:1] != (classes,) or len(others) > 1:
            raise CheckpointError(
                f"{place} is of another model: shape of {name!r} is {there}, the model's is {here}; give weights of "
                "this one"
            )
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name not in differing}, strict=False)
    return tuple(differing)
