"""Captured steps: whole training steps, recorded once as a CUDA graph and replayed."""
