"""Model definitions in plain torch."""

from ccm_fast.entropy.schedule import Schedule

from .ccm import CrossChannelContextModel
from .config import PRESETS, CCMConfig

__all__ = ["PRESETS", "CCMConfig", "CrossChannelContextModel", "Schedule"]
