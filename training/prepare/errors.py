"""What preparing a data set raises for a caller's mistake or a broken download, with the mend."""


class PrepareError(Exception):
    """An archive, a folder or a disk that a data set cannot be prepared from or on."""
