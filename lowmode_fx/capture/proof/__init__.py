"""Proof that a traced graph is the model: both take training steps on fake tensors, and these are compared."""

from lowmode_fx.capture.proof.prove import Proof, prove

__all__ = ["Proof", "prove"]
