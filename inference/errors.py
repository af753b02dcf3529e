"""What can go wrong between an image and its labels, as one tree.

InferenceError
├── ParameterError          a value that the caller gave: scales, base size, image array, device … (also a ValueError)
├── ModelNotFoundError      no bundle, bundled model or checkpoint of that name or path
├── BundleError             a bundle folder that is broken, of another schema, or not what its model.json says
├── EngineError             an engine that is not installed, cannot run here, or failed while running
├── ImageError              bytes that give no image
│   ├── UnsupportedImageError   not a supported type, judged by content
│   ├── UndecodableImageError   truncated or corrupt
│   └── ImageTooLargeError      more pixels than the cap
├── MemoryBudgetError       the smallest plan for an image is over the memory budget
└── PredictionCancelled     a `check` gave the work up

Every message says what was wrong and how to mend it.
"""


class InferenceError(Exception):
    """Base of everything that `inference` raises on purpose."""


class ParameterError(InferenceError, ValueError):
    """A parameter that cannot be used; the message says what would do."""


class ModelNotFoundError(InferenceError):
    """No model of that name or path; the message lists the bundled ones."""


class BundleError(InferenceError):
    """A model bundle that is missing a file, broken, of another schema, or at odds with its model.json."""


class EngineError(InferenceError):
    """An engine that is not installed, cannot use the device, or failed while running."""


class ImageError(InferenceError):
    """Bytes that cannot be made into an image."""


class UnsupportedImageError(ImageError):
    """The content is none of the supported image types, whatever the file is called."""


class UndecodableImageError(ImageError):
    """An image of a supported type that is truncated or corrupt."""


class ImageTooLargeError(ImageError):
    """More pixels than the cap allows; found out before decoding."""


class MemoryBudgetError(InferenceError):
    """No plan for this image fits the memory budget; the message names the budget and what would fit."""


class PredictionCancelled(InferenceError):
    """Raised by a `check` callback to give up a prediction that nobody waits for any more."""
