"""Pictures: what Pillow reads and writes, to and from the planes that the codec takes.

Taken: still images of the formats in ``READ_FORMATS`` in a grey, RGB, palette, CMYK or YCbCr mode, with or without
transparency. 8-bit and 16-bit RGB and grey are coded as they are. Alpha is kept losslessly with 8 bits; colours under
fully transparent pixels are not kept. EXIF, ICC profile, XMP and IPTC travel along; colour that a file states by other
means (gAMA, cHRM, CICP) becomes an ICC profile. Comments and PNG text do not, and are named; resolution outside EXIF
does not.

What is lost on the way, in or out, is named by a :class:`ccm_fast.errors.PictureWarning`.
"""

from .alpha import cropped_alpha, reduced_alpha
from .formats import READ_FORMATS, output_format
from .metadata import metadata, orientation, replace_metadata
from .picture import Picture
from .read import from_pillow, open_picture
from .turn import strip_metadata, turned
from .write import save_picture, to_pillow

__all__ = [
    "READ_FORMATS",
    "Picture",
    "cropped_alpha",
    "from_pillow",
    "metadata",
    "open_picture",
    "orientation",
    "output_format",
    "reduced_alpha",
    "replace_metadata",
    "save_picture",
    "strip_metadata",
    "to_pillow",
    "turned",
]
