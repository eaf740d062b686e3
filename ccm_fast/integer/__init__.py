"""The integer half of the codec: the plan, its tables, the oracle, and freezing a float model into a plan."""

import importlib

# Public name -> module; imported at first use, because reading a plan needs neither torch nor a calibration. (Functions
# that are called like their modules are not here: ``from ccm_fast.integer.freeze import freeze``.)
_EXPORTS = {
    "FrozenEntropyModel": "ccm_fast.integer.frozen",
    "OverflowProofError": "ccm_fast.integer.plan",
    "Plan": "ccm_fast.integer.plan",
    "PlanError": "ccm_fast.integer.plan",
}

__all__ = list(_EXPORTS)


def __getattr__(name):
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)
