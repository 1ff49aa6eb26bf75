"""Whole training steps, recorded once and replayed: what they compute, read and leave, and when none is recorded."""
