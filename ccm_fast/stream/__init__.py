"""Bytes: varints, CRC-32C, packet headers, the .ccm container and the limits that guard them (FORMAT.md, section 6).

Nothing here knows torch, models or images; everything reads bytes that an attacker may have written.
"""
