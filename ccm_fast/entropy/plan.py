"""The plan: a frozen entropy model, and the bytes of FORMAT.md section 7 that it is stored as."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ccm_fast.entropy.plan_bytes import read, write
from ccm_fast.entropy.plan_checks import prove, validate
from ccm_fast.entropy.plan_parts import (
    ACCUMULATE,
    CODED,
    HEAD,
    LEAKY8,
    MAX_ENTRIES,
    NUM_INDEXES,
    RELU8,
    GroupPlan,
    IntConv,
    OverflowProofError,
    PlanData,
    PlanError,
    TableRows,
    fixed_point,
    layers,
    requantization_factor,
)

__all__ = [
    "ACCUMULATE",
    "CODED",
    "HEAD",
    "LEAKY8",
    "MAX_ENTRIES",
    "NUM_INDEXES",
    "RELU8",
    "GroupPlan",
    "IntConv",
    "OverflowProofError",
    "Plan",
    "PlanError",
    "TableRows",
    "fixed_point",
    "layers",
    "requantization_factor",
]


@dataclass(eq=False)
class Plan(PlanData):
    """A frozen entropy model; see :class:`ccm_fast.entropy.plan_parts.PlanData` for its attributes."""

    # Not a part of what dataclasses.replace() copies: another plan has other bytes.
    _bytes: bytes | None = field(default=None, init=False, repr=False)

    @property
    def fingerprint(self) -> bytes:
        """The first 8 bytes of the SHA-256 of :meth:`to_bytes`; every stream carries them."""
        return hashlib.sha256(self.to_bytes()).digest()[:8]

    def to_bytes(self) -> bytes:
        """The plan as bytes (FORMAT.md section 7); kept, so do not change a plan after its first use.

        Raises:
            PlanError: parts do not fit each other.
            OverflowProofError: some input could overflow.
        """
        if self._bytes is None:
            validate(self)
            prove(self)
            self._bytes = write(self)
        return self._bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read, check and prove a plan.

        Raises:
            PlanError: truncated, damaged, outside the limits, or parts that do not fit each other.
            OverflowProofError: some input could overflow.
        """
        data = bytes(data)
        plan = cls(**vars(read(data)))
        validate(plan)
        prove(plan)
        plan._bytes = data
        return plan
