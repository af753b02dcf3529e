"""What can be wrong with a checkpoint. Needs no torch, so that whoever opens a model can name these.

CheckpointError ← NotACheckpointError, UnsupportedCheckpointError, MismatchError, MissingOptionError
"""


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file, the reason and the mend."""


class NotACheckpointError(CheckpointError):
    """The file is no checkpoint, or only a part of one."""


class UnsupportedCheckpointError(CheckpointError):
    """A checkpoint of a kind that cannot be loaded here."""


class MismatchError(CheckpointError):
    """Keys, shapes, classes or options are not those of the network in the file."""


class MissingOptionError(CheckpointError):
    """Something that the file cannot tell was not given; the message names the option."""
