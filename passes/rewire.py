"""Graph edits that several passes use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx


def insert_after(graph: fx.Graph, node: fx.Node, function: Callable[..., Any], argument: Any) -> fx.Node:
    """Insert ``function(node, argument)`` after ``node``, for all users of ``node``."""
    with graph.inserting_after(node):
        result = graph.call_function(function, (node, argument))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    return result
