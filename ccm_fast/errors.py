"""Everything that ccm_fast raises on purpose.

``CcmFastError`` catches all of it; each class is also the built-in exception that callers would expect, so that
``except ValueError`` around a decoder and ``except ImportError`` around an optional engine do what they look like.
"""


class CcmFastError(Exception):
    """Base class of all errors of this package."""


class BuildError(CcmFastError, ImportError):
    """The native library is missing or does not fit the running torch; the message names the remedy."""


class BitstreamError(CcmFastError, ValueError):
    """The bytes are not a stream that this version can decode. Always one of the subclasses below."""


class NotCcmError(BitstreamError):
    """The bytes are something else: they do not begin like a .ccm file."""


class TruncatedError(BitstreamError):
    """The stream ends before its own header says it does."""


class DamagedError(BitstreamError):
    """A checksum, a final coder state or a field contradicts the rest of the stream."""


class WrongModelError(BitstreamError):
    """The stream was written with another model (its fingerprint differs)."""


class UnsupportedVersionError(BitstreamError):
    """The stream was written by a newer or unknown version of the format."""


class LimitError(BitstreamError):
    """The stream asks for more pixels, channels or bytes than the caller allows."""


class ModelError(CcmFastError, ValueError):
    """A model file, or the frozen entropy model in it, is not usable; the message says which part."""


class NotFrozenError(CcmFastError, RuntimeError):
    """The model has no integer entropy model yet; call ``ccm_fast.freeze(model, images)`` or load a frozen one."""


class EncodeError(CcmFastError, ValueError):
    """The image, or what the model makes of it, cannot be written as a stream."""


class TargetError(EncodeError):
    """No quality gives a file as small, or a picture as good, as was asked for."""


class ImageError(CcmFastError, ValueError):
    """A picture file that cannot be read, or that this codec does not take (animations, for instance)."""


class PictureWarning(UserWarning):
    """Part of a picture (metadata, colour, precision) cannot be kept; the message says which and why."""
