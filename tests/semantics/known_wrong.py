"""What is known to be wrong, check by check. It may only shrink.

A habit that is listed here and is right, or is refused with its cause named, fails the test of its check.
"""

from __future__ import annotations

KNOWN_WRONG: dict[str, frozenset[str]] = {
    "full": frozenset(
        {
            "hooks/hook_set_on_the_net",
        }
    ),
    "low": frozenset(
        {
            "foreign/functional_call",
        }
    ),
    "compiled": frozenset(
        {
            "control_flow/break_in_a_loop",
            "control_flow/experts_by_image",
            "foreign/functional_call",
            "hooks/backward_hook_set_later",
        }
    ),
}
