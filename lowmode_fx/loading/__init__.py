"""Fast input for a GPU: a data set that lies on the device, and asynchronous copies of batches."""

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.loading.device_loader import DeviceLoader
from lowmode_fx.loading.prefetch import PrefetchLoader

__all__ = ["Augmentation", "DeviceLoader", "PrefetchLoader"]
