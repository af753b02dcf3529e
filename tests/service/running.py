"""The service as a process of its own, `python -m service`, and its workers, for tests of the whole."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]


def environment(**variables: str) -> dict[str, str]:
    """The variables of this process, without settings but those given."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PSANET_")}
    return kept | {"PSANET_PORT": "0", "PYTHONPATH": str(ROOT)} | variables


class Process:
    """A service that runs; `url` is read from what it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.greeting = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", self.greeting)
        if found is None:
            process.kill()
            raise AssertionError(f"no address in {self.greeting!r}: {process.communicate()[1]}")
        self.url = found.group()

    def resident_mb(self) -> float:
        """Memory of the service and its workers together."""
        return sum(resident_mb(pid) for pid in (self.process.pid, *children(self.process.pid)))

    def end(self, timeout_s: float = 20) -> tuple[int, str]:
        """Wait for its end; exit code and what it wrote to stderr."""
        _, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stderr


@contextmanager
def started(bundle: Path, *command: str, **variables: str) -> Iterator[Process]:
    """A service that is ready, killed in the end if it still runs."""
    process = subprocess.Popen(
        command or (sys.executable, "-m", "service"),
        env=environment(**({"PSANET_MODELS": str(bundle)} | variables)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Process(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def refused(**variables: str) -> tuple[int, str]:
    """Exit code and stderr of a service that is not to start."""
    command = [sys.executable, "-m", "service"]
    done = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def resident_mb(pid: int) -> float:
    """Resident memory of one process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]


def children(pid: int) -> list[int]:
    """Processes whose parent it is, zombies too."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (facts := facts_of(int(folder.name))) and facts[1] == pid:
            found.append(int(folder.name))
    return found


def facts_of(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def metric_of(text: str, name: str, **labels: str) -> float:
    """One number of an exposition; 0 for labels that were never counted."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items()):
                return sample.value
    return 0.0


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Return once it holds; fail where it does not in that time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
