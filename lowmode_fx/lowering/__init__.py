"""A captured model and a configuration to cheaper modes over the same parameters."""

from lowmode_fx.lowering import pickling as pickling  # which tells pickle how ladders are kept
