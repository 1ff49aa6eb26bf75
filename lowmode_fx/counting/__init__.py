"""The cost of a forward or a training step, in multiply-adds."""
