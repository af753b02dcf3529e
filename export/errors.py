"""Everything that `export` raises for a caller's mistake or a bad outcome; each message says how to mend it.

ExportError
├── OutputError         a folder that cannot be written to, or holds what must not be replaced
├── UnavailableError    a precision that cannot be had
├── CalibrationError    images that int8 cannot be calibrated on
└── VerificationError   what was built is not the network
"""


class ExportError(Exception):
    """Base of all errors of this package."""


class OutputError(ExportError):
    """The output folder cannot be used."""


class UnavailableError(ExportError):
    """A precision or target that is not available."""


class CalibrationError(ExportError):
    """There are no images to calibrate int8 on, or they are of no use."""


class VerificationError(ExportError):
    """The file that was built does not give the network's logits."""
