"""ONNX Runtime with its telemetry off; everything here that uses the library takes it from this module.

1.31 keeps a device id and a queue of events for its maker in ~/.cache/Microsoft from the moment that it is
imported. `ORT_DISABLE_TELEMETRY=0` in the environment leaves it as it comes.

    from inference.onnxruntime_library import onnxruntime
"""

import os

# It reads this once, while it is imported: its own function comes too late to keep it from writing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as onnxruntime  # noqa: E402, PLC0414

__all__ = ["onnxruntime"]
