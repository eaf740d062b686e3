"""Suffixes of picture files, for whoever looks for pictures in folders and archives. This file imports nothing."""

__all__ = ["IMAGE_SUFFIXES"]

# Of the formats that ccm_fast.images reads, in lower case.
IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm")
    + (".ppm", ".tga", ".tif", ".tiff", ".webp")
)
