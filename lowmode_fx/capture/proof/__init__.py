"""Is a traced graph the model? Both take training steps on tensors without numbers, and what they do is compared."""

from lowmode_fx.capture.proof.prove import Proof, prove

__all__ = ["Proof", "prove"]
