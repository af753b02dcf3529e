"""Building a plan as a command does it: seen, stoppable, and not twice.

The library works in a thread, so that Ctrl-C is heard at once; how far it is stands on stderr; what was built
before for the same model, library, GPUs, shapes and options comes from the cache.

    built = build_plan(library, content, request, cache=Cache(default_folder()), facts={…})
"""

import hashlib
import logging
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from export import plugin as psa_plugin
from export.progress import show_progress
from export.trt_models import Wanted
from export.trt_targets import Targets
from inference.cache import Cache, Facts
from inference.engines.tensorrt import Gpu
from inference.tensorrt_library import Library, Plan, Profile, Request

log = logging.getLogger(__name__)

_TICK_S = 0.2


@dataclass(frozen=True)
class Built:
    """A plan. cached: whether it was built before; memory_bytes: what it works in on the GPU, where known."""

    content: bytes
    cached: bool
    memory_bytes: int | None = None


def build_plan(
    library: Library, model: bytes, request: Request, *, cache: Cache | None, facts: Facts
) -> Built:
    """Builds the plan of a strongly typed ONNX file, or takes it from the cache.

    facts: all that the plan depends on beyond `model`, `request` and `library`, whose timing cache must not
    be filled in: the GPU, say. Raises EngineError; KeyboardInterrupt once the build has stopped.
    """
    timing = {"library": library.title, "gpu": facts.get("gpu"), "kind": "timing"}
    if cache is not None:
        kept = cache.load("plan", facts)
        if kept is not None:
            log.info("the engine was built before and comes from %s", cache.folder)
            return Built(kept, True, int(cache.load("memory", facts) or 0) or None)
        if library.times_kernels:
            earlier = cache.load("timing", timing) or b""
            request = Request(request.profile, request.targets, request.plugins, earlier)
    log.info("building with %s", library.title)
    plan = _build_in_thread(library, model, request)
    if cache is not None:
        cache.store("plan", facts, plan.content)
        if plan.memory_bytes:
            cache.store("memory", facts, str(plan.memory_bytes).encode())
        if plan.timing_cache:
            cache.store("timing", timing, plan.timing_cache)
    return Built(plan.content, False, plan.memory_bytes)


def plan_facts(
    content: bytes, library: Library, targets: Targets, profile: Profile, wanted: Wanted, gpu: Gpu | None
) -> Facts:
    """All that the plan of an ONNX file depends on, for the cache."""
    kernel = psa_plugin.KERNEL.read_bytes() + Path(psa_plugin.__file__).read_bytes() if wanted.plugin else b""
    return {
        "format": 1,
        "model": hashlib.sha256(content).hexdigest(),
        "library": library.runtime,
        "version": library.version,
        "targets": targets.written,
        # Kernels are chosen by timing them on this very GPU.
        "gpu": [gpu.name, gpu.target, gpu.memory_bytes] if gpu and library.times_kernels else None,
        "precision": wanted.precision,
        "profile": [profile.least, profile.usual, profile.most],
        "plugin": hashlib.sha256(kernel).hexdigest() if wanted.plugin else None,
    }


def _build_in_thread(library: Library, model: bytes, request: Request) -> Plan:
    progress = show_progress(sys.stderr)
    plans: list[Plan] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            plans.append(library.build(model, request, progress))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    # Not a daemon: the library must not be torn down while it works.
    thread = threading.Thread(target=work, name="build")
    thread.start()
    try:
        # Not `join`: in Python 3.11, one that was interrupted takes the thread for ended though it works.
        while not done.wait(_TICK_S):
            pass
    except KeyboardInterrupt:
        progress.stop()
        done.wait()
        raise
    finally:
        progress.close()
    if errors:
        raise errors[0]
    return plans[0]
