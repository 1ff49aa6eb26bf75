"""Lower a captured model and a configuration to cheaper modes over the same parameters."""
