"""NVRTC, CUDA's run-time compiler: CUDA C++ to PTX, without a GPU, a driver or a CUDA toolkit.

The library is looked for in the wheels of the extra `plugin` and of CUDA builds of torch, then in the system.

    ptx = compile_ptx(Path("export/kernels/psa_mask.cu").read_text(), "psa_mask.cu", capability=80)
"""

import ctypes
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from export.errors import UnavailableError

# Oldest first: a driver takes PTX of its own CUDA version and of all before it.
_WHEELS = ("cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.so.13")
_SYSTEM = ("libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so")


def compile_ptx(source: str, name: str, *, capability: int) -> str:
    """PTX for GPUs of compute capability `capability` (80 is 8.0) and every later one.

    name: of the source, for messages. Raises UnavailableError where NVRTC is not installed or does not know
    the capability, RuntimeError with the compiler's log for a source that does not compile.
    """
    library = _library()
    known = _capabilities(library)
    if capability not in known:
        raise UnavailableError(
            f"this NVRTC compiles for compute capability {', '.join(map(str, known))}, not {capability}: "
            "install another version of it, or build without --plugin"
        )
    program = ctypes.c_void_p()
    _check(
        library,
        library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None),
    )
    try:
        options = [f"--gpu-architecture=compute_{capability}".encode(), b"--std=c++17"]
        array = (ctypes.c_char_p * len(options))(*options)
        if library.nvrtcCompileProgram(program, len(options), array):
            raise RuntimeError(f"{name} does not compile: {_text(library, program, 'ProgramLog')}")
        return _text(library, program, "PTX")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, text))
    return text.value.decode()


def _capabilities(library: ctypes.CDLL) -> list[int]:
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    values = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(values))
    return list(values)


def _check(library: ctypes.CDLL, result: int) -> None:
    if result:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC failed: {library.nvrtcGetErrorString(result).decode()}")


def _library() -> ctypes.CDLL:
    for candidate in _candidates():
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise UnavailableError(
        "NVRTC, which compiles the plugin's kernel, is not installed: pip install '.[plugin]', or build "
        "without --plugin"
    )


def _candidates() -> Iterator[str]:
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for wheel in _WHEELS:
        for folder in folders:
            if (path := Path(folder) / wheel).is_file():
                yield str(path)
    yield from _SYSTEM
