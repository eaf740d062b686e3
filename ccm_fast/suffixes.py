"""Suffixes of picture files, for whoever looks for pictures in folders and archives. This file imports nothing."""

__all__ = ["IMAGE_SUFFIXES"]

# Of the formats that ccm_fast.images reads, in lower case.
IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".avifs", ".bmp", ".bw", ".dib", ".gif", ".icb", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe"}
    | {".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".rgb", ".rgba"}
    | {".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp"}
)
