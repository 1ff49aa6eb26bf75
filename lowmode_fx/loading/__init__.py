"""Images that keep up with a GPU: sets that lie on it, and copies that are under way before they are asked for."""

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.loading.device_loader import DeviceLoader
from lowmode_fx.loading.prefetch import PrefetchLoader

__all__ = ["Augmentation", "DeviceLoader", "PrefetchLoader"]
