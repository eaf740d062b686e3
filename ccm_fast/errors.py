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
