"""Live lowering: a low step runs the model itself under a mode that lowers each call as it is made."""

from lowmode_fx.lowering.live.live import LiveLowering
from lowmode_fx.lowering.live.lookup import LiveLoweringWarning

__all__ = ["LiveLowering", "LiveLoweringWarning"]
