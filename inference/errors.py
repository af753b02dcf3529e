"""Everything that `inference` raises for a caller's mistake; each message says how to mend it.

InferenceError
├── ParameterError          a scale, an alpha, a size that cannot be (also a ValueError)
├── ModelNotFoundError      no bundle, bundled model or checkpoint of that name
├── BundleError             a bundle that is incomplete, broken or of another schema
├── EngineError             an engine or device that is not there, or that refused the model
├── ImageError              bytes that give no image
│   ├── UnsupportedImageError   not a supported type, by content
│   ├── UndecodableImageError   truncated or corrupt
│   └── ImageTooLargeError      more pixels than the cap
├── MemoryBudgetError       the image does not fit the memory budget
├── NoAttentionError        a model or an engine that cannot tell what a point attends to
└── PredictionCancelled     the caller's own `check` gave the work up
"""


class InferenceError(Exception):
    """Base of all errors of this package."""


class ParameterError(InferenceError, ValueError):
    """A parameter outside its range."""


class ModelNotFoundError(InferenceError):
    """No bundle folder, bundled model or checkpoint file answers to the name."""


class BundleError(InferenceError):
    """A model bundle that is incomplete, broken or of another schema."""


class EngineError(InferenceError):
    """An engine or device that is not installed, not there, or that refused the model."""


class ImageError(InferenceError):
    """Bytes that cannot become an image."""


class UnsupportedImageError(ImageError):
    """Not an image of a supported type, judged by content."""


class UndecodableImageError(ImageError):
    """A supported type, but truncated or corrupt."""


class ImageTooLargeError(ImageError):
    """More pixels than the cap, read from the header before anything is decoded."""


class MemoryBudgetError(InferenceError):
    """The prediction does not fit the memory budget."""


class NoAttentionError(InferenceError):
    """The model has no attention, or its engine does not give it."""


class PredictionCancelled(InferenceError):  # noqa: N818 - an outcome that the caller chose, not a fault
    """The caller's `check` abandoned the prediction."""
