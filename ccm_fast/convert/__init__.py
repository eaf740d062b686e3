"""Data sets from one picture format to another: ``ccm-fast convert``, and :class:`Recoder`, the work on one picture.

A source is a folder, in which pictures, tar shards, Parquet tables and other files are *units*: each becomes one file
of the target, which appears complete or not at all.
"""

from .recode import Recoder

__all__ = ["Recoder"]
