"""The process in which images are decoded, segmented and encoded: python -m service.worker FD PARENT

Started by the service (`processes.py`), one for each device, with its end of a socket as FD. It reads what
strangers have sent and runs native code on it, so it may crash, hang or be killed: the service replaces it.

It gets a WorkerSpec, then Jobs and Cancels (`tasks.py`). It tells, as JSON, some of it with a body:

    at first    {"kind": "ready", "models": […], "workers": 4}   or   {"kind": "failed", "message": "…"}
    of a job    {"kind": "answer", "number": 7, …} + content     or   {"kind": "error", "number": 7, …}
    every second    {"kind": "alive", "call_s": …, "overdue_s": …, "uses": {…}}

It ends when the socket does, and with its parent. Not here: HTTP, queues.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from inference.errors import EngineError, InferenceError
from service import memory
from service.frames import Link
from service.hosting import HostingError
from service.logs import configure_logging, request_id
from service.tasks import Answer, Cancel, Job, WorkerSpec
from service.tickets import Ticket
from service.workbench import Workbench

logger = logging.getLogger(__name__)

BEAT_S = 1.0
_TIDY_BEATS = 5
_LAST_S = 5.0
_PR_SET_PDEATHSIG = 1
NOT_STARTED, BROKEN = 2, 3
"""Exit codes: the models could not be opened; the engine does nothing but fail."""


def main(descriptor: int, parent: int) -> None:
    """Serve the process at the other end; does not return."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the service, which lets work here end
    _die_with(parent)
    _go_first_when_memory_ends()
    memory.limit_heaps()
    memory.keep_buffers()
    link = Link(socket.socket(fileno=descriptor))
    spec = link.receive()
    if not isinstance(spec, WorkerSpec):
        os._exit(NOT_STARTED)
    configure_logging(spec.log_level, spec.log_format)
    try:
        bench = Workbench.open(spec)
    except Exception as error:
        if not isinstance(error, HostingError):
            logger.exception("loading the models failed")
        with suppress(OSError):
            link.send({"kind": "failed", "message": str(error) or type(error).__name__})
        os._exit(NOT_STARTED)
    memory.give_back()  # building a session leaves more than a hundred megabytes free
    _Worker(link, bench, spec.workers or bench.at_once).run()


class _Worker:
    """Jobs in threads, one message at a time."""

    def __init__(self, link: Link, bench: Workbench, workers: int) -> None:
        self._link, self._bench, self._workers = link, bench, workers
        self._tickets: dict[int, Ticket] = {}
        self._finished = 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="psanet-job")
        self._start_threads()

    def _start_threads(self) -> None:
        """All of them now: one that was started for a job, in want of memory, could take the job with it."""
        barrier = threading.Barrier(self._workers)
        for _ in range(self._workers):
            self._pool.submit(barrier.wait)

    def run(self) -> None:
        """Work until the other end is closed."""
        try:
            models = [model.to_dict() for model in self._bench.models]
            self._link.send({"kind": "ready", "models": models, "workers": self._workers})
            threading.Thread(target=self._beat, name="psanet-beat", daemon=True).start()
            while (message := self._link.receive()) is not None:
                self._take(message)
        except OSError:
            pass  # the service is gone
        finally:
            self._end()

    def _take(self, message: object) -> None:
        match message:
            case Job():
                ticket = self._tickets[message.number] = Ticket(message.remaining_s)
                self._pool.submit(self._do, message, ticket)
            case Cancel():
                # The job may have ended in the meantime.
                if (given_up := self._tickets.get(message.number)) is not None:
                    given_up.give_up()

    def _do(self, job: Job, ticket: Ticket) -> None:
        request_id.set(job.order.request_id)
        try:
            outcome: Answer | BaseException = self._bench.do(job, ticket)
        except BaseException as error:
            outcome = error
        del self._tickets[job.number]
        self._finished += 1
        try:
            self._link.send(*_report(job.number, outcome))
        except OSError:
            return  # the service is gone; `run` sees it too
        except BaseException:
            os._exit(BROKEN)  # the service would wait for this job for ever
        if self._bench.broken:
            logger.error("the engine does nothing but fail: this worker ends, to be replaced")
            os._exit(BROKEN)

    def _beat(self) -> None:
        tidier, beats = memory.Tidier(), 0
        while True:
            overdue_s = max((ticket.overdue_s for ticket in list(self._tickets.values())), default=0.0)
            uses = {name: asdict(use) for name, use in self._bench.take_uses().items()}
            beat = {"kind": "alive", "call_s": self._bench.call_s, "overdue_s": overdue_s, "uses": uses}
            try:
                self._link.send(beat)
            except OSError:
                os._exit(0)
            beats += 1
            if beats % _TIDY_BEATS == 0 and tidier.due(self._finished, busy=bool(self._tickets)):
                memory.give_back()
            time.sleep(BEAT_S)

    def _end(self) -> None:
        """Let go of what runs and of the engines; whatever hangs, the process ends."""
        last = threading.Timer(_LAST_S, os._exit, (0,))
        last.daemon = True
        last.start()
        for ticket in list(self._tickets.values()):
            ticket.give_up()
        self._bench.close()
        logging.shutdown()
        os._exit(0)


def _report(number: int, outcome: Answer | BaseException) -> tuple[dict[str, Any], bytes]:
    """What is told of a job that has ended."""
    if isinstance(outcome, Answer):
        facts = {name: value for name, value in asdict(outcome).items() if name != "content"}
        return {"kind": "answer", "number": number, **facts}, outcome.content
    known = isinstance(outcome, InferenceError) and not isinstance(outcome, EngineError)
    trace = "" if known else "".join(traceback.format_exception(outcome))
    head = {"kind": "error", "number": number, "error": type(outcome).__name__}
    return head | {"message": str(outcome), "trace": trace}, b""


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, in whatever way (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was asked
        os._exit(0)


def _go_first_when_memory_ends() -> None:
    """Let the kernel choose this process rather than the service, which can replace it (Linux alone)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
