"""Which step runs in which mode."""
