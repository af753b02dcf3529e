"""One worker process, as the service holds it: started, given jobs, watched, ended.

The worker (`worker.py`) is started anew by the interpreter, never forked: no lock, thread or CUDA context of
the service is in it. A socket is all that the two share, so that nothing is left behind when one is killed.

A worker that says nothing for `SILENCE_S` (stopped, swapped out, stuck with the interpreter's lock), or whose
engine call or given-up job goes on for longer than `call_timeout_s`, is killed. However it ends, its jobs get
a 503 with Retry-After at once. Not here: putting another in its place (`fleet.py`).
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import inference.errors
from inference.errors import EngineError, InferenceError
from service.dispatch import Done
from service.errors import Problem
from service.frames import BrokenFrameError, pack, read_reply
from service.hosted import HostedModel
from service.tasks import Answer, Cancel, EngineUse, Job, MissingModelError, Timings, Uses, WorkerSpec

logger = logging.getLogger(__name__)

SILENCE_S = 15.0
LOADING_S = 900.0
"""Building an engine for a GPU takes minutes."""
_LOOK_EVERY_S = 0.5
_LAST_S, _QUICK_S = 7.0, 1.0
"""How long a worker may take to end that was told to, and one whose socket is closed already."""

End = Literal["crashed", "hung", "silent", "retired"]


class StartError(Exception):
    """A worker that could not be started; the message says why."""


class WorkerFaultError(Exception):
    """A job that failed by a fault of ours; the message is the worker's traceback."""


class WorkerProcess:
    """A `Worker` (`dispatch.py`) in a process of its own; made by `start_worker`."""

    def __init__(
        self,
        spec: WorkerSpec,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        *,
        call_timeout_s: float,
        tell_uses: Callable[[Uses], None],
    ) -> None:
        self._spec, self._process = spec, process
        self._reader, self._writer = streams
        self._call_timeout_s, self._tell_uses = call_timeout_s, tell_uses
        self._jobs: dict[int, Done] = {}
        self._heard = time.monotonic()
        self._end: End | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[End] | None = None
        self.models: tuple[HostedModel, ...] = ()
        self.workers = 0
        self.started_s = 0.0

    @property
    def name(self) -> str:
        """The device that it runs on."""
        return self._spec.device

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def open(self) -> None:
        """Wait until its models are loaded and warm. Raises StartError."""
        started = time.monotonic()
        self._writer.write(pack(self._spec))
        try:
            async with asyncio.timeout(LOADING_S):
                head, _ = await read_reply(self._reader)
        except BaseException as error:
            code = await self._bury(0 if isinstance(error, asyncio.CancelledError) else _QUICK_S)
            if isinstance(error, TimeoutError):
                raise StartError(f"the models were not loaded after {LOADING_S:g} s") from None
            if isinstance(error, EOFError | OSError | BrokenFrameError):
                raise StartError(f"a worker ended while it started ({_said(code)})") from None
            raise
        if head["kind"] == "failed":
            await self._bury(_QUICK_S)
            raise StartError(str(head["message"]))
        self.models = tuple(HostedModel.from_dict(model) for model in head["models"])
        self.workers = int(head["workers"])
        self._heard = time.monotonic()
        self.started_s = self._heard - started
        self._task = asyncio.create_task(self._serve())

    def start(self, job: Job, done: Done) -> None:
        """See `Worker.start`."""
        if self._end is not None:
            done(self._lost())
            return
        self._jobs[job.number] = done
        self._idle.clear()
        self._writer.write(pack(job))

    def cancel(self, number: int) -> None:
        """See `Worker.cancel`."""
        if self._end is None:
            self._writer.write(pack(Cancel(number)))

    async def ended(self) -> End:
        """Wait for its end; how it came."""
        assert self._task is not None
        return await asyncio.shield(self._task)

    async def retire(self) -> None:
        """Wait until what it works on is done, then end it. It must not be given more."""
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """End it at once."""
        self._end = self._end or "retired"
        self._writer.close()
        if self._task is not None:
            await self.ended()

    async def _serve(self) -> End:
        """Hear what it says, until it ends."""
        looking = asyncio.create_task(self._look())
        try:
            while True:
                head, body = await read_reply(self._reader)
                self._heard = time.monotonic()
                self._take(head, body)
        except (EOFError, OSError):
            pass
        except Exception:
            logger.exception("the worker on %s says what nobody understands", self.name)
        finally:
            looking.cancel()
        expected = self._end == "retired"
        self._end = self._end or "crashed"
        self.workers = 0  # its jobs end now, and what waits must not come here
        jobs, self._jobs = self._jobs, {}
        self._idle.set()
        for done in jobs.values():
            done(self._lost())
        code = await self._bury(_LAST_S if expected else _QUICK_S)
        if not expected:
            logger.error(
                "the worker on %s ended (%s, %s) with %d jobs", self.name, self._end, _said(code), len(jobs)
            )
        return self._end

    def _take(self, head: dict[str, Any], body: bytes) -> None:
        match head["kind"]:
            case "answer":
                self._settle(head, _answer_of(head, body))
            case "error":
                self._settle(head, _error_of(head))
            case "alive":
                uses = head["uses"].items()
                self._tell_uses(
                    {
                        model: EngineUse({int(n): c for n, c in use["sizes"].items()}, use["engine_s"])
                        for model, use in uses
                    }
                )
                if max(head["call_s"], head["overdue_s"]) > self._call_timeout_s:
                    self._kill("hung")

    def _settle(self, head: dict[str, Any], outcome: Answer | Exception) -> None:
        done = self._jobs.pop(head["number"])
        if not self._jobs:
            self._idle.set()
        done(outcome)

    async def _look(self) -> None:
        """Kill it when it has been silent for too long. Time in which we did not run does not count."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            if now - before > 4 * _LOOK_EVERY_S:
                self._heard = now
            before = now
            if now - self._heard > SILENCE_S:
                self._kill("silent")

    def _kill(self, end: End) -> None:
        self._end = self._end or end
        with suppress(ProcessLookupError):
            self._process.kill()

    def _lost(self) -> Problem:
        detail = (
            "The process that worked on this request ended before it was done; another one takes its place: "
            "try again after the time in Retry-After."
        )
        return Problem(503, "worker_lost", detail, title="Worker lost", retry_after_s=1 + self.started_s)

    async def _bury(self, patience_s: float) -> int:
        """Close the socket and see the process end, by force after `patience_s`; its exit code."""
        self._writer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                return await self._process.wait()
        with suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()


async def start_worker(
    spec: WorkerSpec, *, call_timeout_s: float, tell_uses: Callable[[Uses], None]
) -> WorkerProcess:
    """Start a process and wait until it is ready. tell_uses: told now and then what its engines did.

    Raises StartError.
    """
    ours, theirs = socket.socketpair()
    command = (sys.executable, "-P", "-m", "service.worker", str(theirs.fileno()), str(os.getpid()))
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    except OSError as error:
        ours.close()
        raise StartError(f"no process could be started: {error.strerror or error}") from error
    finally:
        theirs.close()
    streams = await asyncio.open_unix_connection(sock=ours)
    worker = WorkerProcess(spec, process, streams, call_timeout_s=call_timeout_s, tell_uses=tell_uses)
    await worker.open()
    return worker


def _answer_of(head: dict[str, Any], body: bytes) -> Answer:
    size = head["head_bytes"]
    timings, windows = Timings(**head["timings"]), int(head["windows"])
    return Answer(body, head["media_type"], timings, windows, None if size is None else int(size))


def _error_of(head: dict[str, Any]) -> Exception:
    """The exception that a worker tells of: the caller's mistakes by their kind, anything else our fault."""
    name, message = str(head["error"]), str(head["message"])
    if name in (MemoryError.__name__, MissingModelError.__name__):
        return MemoryError(message) if name == MemoryError.__name__ else MissingModelError(message)
    kind = getattr(inference.errors, name, None)
    if isinstance(kind, type) and issubclass(kind, InferenceError) and not issubclass(kind, EngineError):
        return kind(message)
    return WorkerFaultError(str(head["trace"]))


def _said(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    hint = ", by the kernel for want of memory perhaps" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{hint}"
