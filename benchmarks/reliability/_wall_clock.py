"""A wall clock that can be made to jump, for the processes that are started with it: a small library before
libc (LD_PRELOAD) that adds what a file says. As by a real jump, the monotonic clock is left alone.

Needs a C compiler.
"""

import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset_s;

__attribute__((constructor)) static void open_offset(void) {
    const char *path = getenv("WALL_CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(0, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) offset_s = page;
    close(file);
}

static int64_t offset(void) { return offset_s ? *offset_s : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *store) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (store) *store = exact.tv_sec;
    return exact.tv_sec;
}
"""


class WallClock:
    """variables: to start a process with."""

    def __init__(self, folder: Path) -> None:
        self._file, self._library = folder / "offset", folder / "wall_clock.so"
        self.variables = {"LD_PRELOAD": str(self._library), "WALL_CLOCK_OFFSET": str(self._file)}
        self._offset_s = 0

    def __enter__(self) -> "WallClock":
        compiler = shutil.which("cc")
        if compiler is None:
            raise RuntimeError("clock jumps need a C compiler: install one, or leave them out with --only")
        source = self._library.with_suffix(".c")
        source.write_text(SOURCE)
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source)]
        subprocess.run(command, check=True)
        self.jump(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.jump(0)

    def jump(self, offset_s: int) -> None:
        """From now on it shows the real time and that much."""
        with open(self._file, "r+b" if self._file.exists() else "w+b") as file:  # the page stays the same
            file.write(offset_s.to_bytes(8, "little", signed=True))
        self._offset_s = offset_s

    def now_s(self) -> float:
        """What it shows."""
        return time.time() + self._offset_s
