"""Model definitions in plain torch."""

from .ccm import CrossChannelContextModel
from .config import PRESETS, CCMConfig
from .schedule import Schedule

__all__ = ["PRESETS", "CCMConfig", "CrossChannelContextModel", "Schedule"]
