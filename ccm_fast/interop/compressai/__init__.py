"""Drop-in for CompressAI: its nets on the integer engine. compressai itself is never imported here."""

from ccm_fast.interop.compressai.accelerated import AcceleratedNet, accelerate, restore

__all__ = ["AcceleratedNet", "accelerate", "restore"]
