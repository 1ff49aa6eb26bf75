"""Preserve a model's state: whatever happens inside, its tensors, attributes, modes and generators are restored."""

from passes.preserve.containers import same_items
from passes.preserve.copies import computed_copies, copy_apart, copy_spread_out
from passes.preserve.forwards import ForwardAttributes
from passes.preserve.state import (
    own_classes,
    preserve_attributes,
    preserve_generators,
    preserve_modes,
    preserve_state,
    train_mode,
    undo_writes,
)

__all__ = [
    "ForwardAttributes",
    "computed_copies",
    "copy_apart",
    "copy_spread_out",
    "own_classes",
    "preserve_attributes",
    "preserve_generators",
    "preserve_modes",
    "preserve_state",
    "same_items",
    "train_mode",
    "undo_writes",
]
