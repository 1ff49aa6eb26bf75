"""What lies in a run folder, and the parts of a data set, by name."""

from typing import Literal

METRICS, SUMMARY, CURVES = "metrics.csv", "summary.json", "curves.png"
#: The averaged weights, where a run keeps an average.
EMA = "ema.safetensors"
#: The folder of TensorBoard's events.
EVENTS = "tensorboard"
#: Folders of a checkpoint: the newest, the one before it, and one that is being written.
CURRENT, PREVIOUS, PARTIAL = "checkpoint", "checkpoint.previous", "checkpoint.partial"
MODEL_FILE, STATE_FILE = "model.safetensors", "state.pt"
#: Held by the process whose run is in the folder; gone with it, however it ends.
LOCK = ".lock"
#: All that a run writes, and ``overwrite`` takes away.
OWN_NAMES = (METRICS, SUMMARY, CURVES, EMA, EVENTS, CURRENT, PREVIOUS, PARTIAL)

#: The parts of a data set: what is validated on, what is kept for the end, and what is trained on.
Part = Literal["val", "test", "train"]
