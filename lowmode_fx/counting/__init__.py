"""What a forward or a training step costs, in multiply-adds."""
