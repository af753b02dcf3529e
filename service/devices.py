"""Which GPUs there are, without a library that would open them: the driver is asked in a short-lived process.

python -c "from service.devices import devices_of; print(devices_of('cuda'))"
"""

import subprocess
import sys

_ASK = """
import ctypes
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
print(count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0)
"""
_PATIENCE_S = 60.0


def devices_of(device: str) -> list[str]:
    """The devices that workers run on: `cuda` is every GPU that CUDA_VISIBLE_DEVICES lets through.

    Where no driver answers, `cuda` stays as it is: the engine that is opened there says what is wrong.
    """
    if device != "cuda":
        return [device]
    return [f"cuda:{index}" for index in range(_count_gpus())] or [device]


def _count_gpus() -> int:
    command = [sys.executable, "-I", "-c", _ASK]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        return int(answer.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return 0
