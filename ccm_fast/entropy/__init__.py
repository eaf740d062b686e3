"""The integer half of the codec at run time: the plan of a frozen model, its tables, the engines and the oracle."""

import importlib

# Public name -> module; imported at first use, because reading a plan needs neither torch nor a calibration.
_EXPORTS = {
    "FrozenEntropyModel": "ccm_fast.entropy.frozen",
    "OverflowProofError": "ccm_fast.entropy.plan",
    "Plan": "ccm_fast.entropy.plan",
    "PlanError": "ccm_fast.entropy.plan",
}

__all__ = list(_EXPORTS)


def __getattr__(name):
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)
