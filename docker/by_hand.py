"""Takes the steps of Dockerfile.cpu in a folder, where there is no engine to build an image, and measures.

The instructions are read from the Dockerfile, so these steps are those. The service then runs as the image's
user, as root of the machine with the whole file system read-only but for an empty /tmp, without capabilities;
else as whoever calls. Not here: images, networks, limits of memory. The last line is one JSON object.

    sudo python docker/by_hand.py --python /usr/bin/python3
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from healthcheck import check

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile.cpu"
BASE_MB = 130.01
"""On disk, of python:3.11.16-slim-bookworm for amd64, as docker-library/repo-info lists it (2026-08-13)."""
_READY_WITHIN_S = 120.0
_READ_ONLY = (
    "mount --bind / / && mount -o remount,ro,bind / && mount -t tmpfs -o size=256m,noexec tmpfs /tmp "
    '&& cd / && exec "$@"'
)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile: its keyword and the rest of the line."""

    keyword: str
    text: str


def read_stages(dockerfile: Path) -> list[list[Instruction]]:
    """The instructions of each stage; what stands before the first FROM is left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[list[Instruction]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, _, text = line.strip().partition(" ")
        if keyword == "FROM":
            stages.append([])
        elif keyword and stages:
            stages[-1].append(Instruction(keyword, text.strip()))
    return stages


def environment_of(stage: Sequence[Instruction]) -> dict[str, str]:
    """What ENV sets in a stage."""
    pairs = [pair for item in stage if item.keyword == "ENV" for pair in shlex.split(item.text)]
    return dict(pair.split("=", 1) for pair in pairs)


@dataclass(frozen=True)
class Folder:
    """A folder that stands for the image's file system; `python` for the Python of its base."""

    path: Path
    python: str

    def inside(self, text: str) -> str:
        """`text` with the image's own places put into the folder."""
        return re.sub(r"(?<![\w./])/(opt|src|var)\b", lambda found: f"{self.path}/{found[1]}", text)

    def build(self, stages: Sequence[Sequence[Instruction]]) -> None:
        """All that ENV, WORKDIR, COPY and RUN say. Raises CalledProcessError."""
        for stage in stages:
            environ = {
                **os.environ,
                **{key: self.inside(text) for key, text in environment_of(stage).items()},
            }
            environ["PATH"] = environ["PATH"].replace("$PATH", os.environ["PATH"])
            here = self.path
            for item in stage:
                if item.keyword == "WORKDIR":
                    here = Path(self.inside(item.text))
                    here.mkdir(parents=True, exist_ok=True)
                elif item.keyword == "COPY" and not item.text.startswith("--from"):
                    *sources, target = item.text.split()
                    for source in sources:
                        _copy(ROOT / source, here / self.inside(target), into=len(sources) > 1)
                elif item.keyword == "RUN":
                    # The base image has pip beside its Python; here any pip will do, it works on the other.
                    text = self.inside(item.text).replace("python -m venv", f"{self.python} -m venv")
                    text = text.replace("python -m pip", f"{sys.executable} -m pip")
                    subprocess.run(["sh", "-euc", text], cwd=here, env=environ, check=True)


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif into:
        shutil.copy(source, target / source.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def start(folder: Folder, stage: Sequence[Instruction], port: int) -> subprocess.Popen[bytes]:
    """Runs ENTRYPOINT with ENV, and as root of the machine as USER says, on a read-only file system."""
    said = {item.keyword: item.text for item in stage}
    environ = {key: folder.inside(text) for key, text in environment_of(stage).items()}
    environ |= {"PSANET_HOST": "127.0.0.1", "PSANET_PORT": str(port)}
    environ["PATH"] = environ["PATH"].replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
    command = [folder.inside(text) for text in json.loads(said["ENTRYPOINT"])]
    command[0] = str(shutil.which(command[0], path=environ["PATH"]))
    if os.geteuid() == 0:
        user, group = said["USER"].split(":")
        rights = ["--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"]
        rights += ["--inh-caps", "-all", "--bounding-set", "-all"]
        private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _READ_ONLY, "sh"]
        command = [*private, "setpriv", *rights, *command]
    return subprocess.Popen(command, env=environ, cwd="/")


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> float:
    """Seconds until the image's own health check is content."""
    started = time.monotonic()
    while (problem := check({"PSANET_PORT": str(port)})) is not None:
        if process.poll() is not None or time.monotonic() - started > _READY_WITHIN_S:
            raise SystemExit(f"by_hand: the service did not get ready: {problem}")
        time.sleep(0.02)
    return time.monotonic() - started


def segment(port: int) -> str:
    """What the service says of a small picture: the type of its answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/segment", data=png(120, 160), headers={"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.headers["Content-Type"])


def png(height: int, width: int) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes((90, 120, 150)) * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def megabytes(folder: Path) -> float:
    """Of all files, in millions of bytes, as image sizes are given."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 1e6


def process_facts(pid: int) -> dict[str, str]:
    """Of a process: who it is, what it may, what it weighs (Linux)."""
    wanted = {"Uid", "CapEff", "NoNewPrivs", "VmRSS"}
    pairs = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    facts = {key: text.strip() for key, text in pairs if key in wanted}
    return facts | {"Uid": facts["Uid"].split()[0]}


def measure(folder: Folder, stages: Sequence[Sequence[Instruction]]) -> Iterator[tuple[str, object]]:
    """Name and figure of everything that is measured, the service's life among it."""
    installed = megabytes(folder.path / "opt" / "psanet")
    yield "installed_mb", round(installed, 1)
    yield "base_mb_as_published", BASE_MB
    yield "image_mb", round(installed + BASE_MB, 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start(folder, stages[-1], port)
    try:
        yield "ready_s", round(wait_until_ready(process, port), 2)
        yield "process", process_facts(process.pid)
        yield "answer", segment(port)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
    yield "exit_code", code


def main() -> int:
    """Build, run, measure."""
    parser = argparse.ArgumentParser(description="Takes the steps of Dockerfile.cpu in a folder.")
    parser.add_argument("--python", default=sys.executable, help="stands for the base image's Python, 3.11")
    parser.add_argument("--folder", type=Path, help="default: a new one in /var/tmp, deleted at the end")
    args = parser.parse_args()
    stages = read_stages(DOCKERFILE)
    path = args.folder or Path(tempfile.mkdtemp(prefix="psanet-by-hand-", dir="/var/tmp"))
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    try:
        folder = Folder(path, args.python)
        started = time.monotonic()
        folder.build(stages)
        figures: Mapping[str, object] = {"build_s": round(time.monotonic() - started, 1)}
        print(json.dumps({**figures, **dict(measure(folder, stages))}))
    finally:
        if args.folder is None:
            shutil.rmtree(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
