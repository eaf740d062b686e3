"""The integer half of the codec at run time: the plan of a frozen model, its tables, the engines and the oracle."""

from ccm_fast.lazy import exports

# Public name -> module; imported at first use, because reading a plan needs neither torch nor a calibration.
_EXPORTS = {
    "FrozenEntropyModel": "ccm_fast.entropy.frozen",
    "OverflowProofError": "ccm_fast.entropy.plan",
    "Plan": "ccm_fast.entropy.plan",
    "PlanError": "ccm_fast.entropy.plan",
}

__all__ = list(_EXPORTS)

__getattr__, __dir__ = exports(globals(), _EXPORTS)
