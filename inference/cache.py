"""Files that only save time: kept from one run to the next by everything that they depend on, never stale.

Whatever goes wrong with them (a full disk, a damaged file) is a line in the log, not an error. They lie in
`$XDG_CACHE_HOME/psanet-serving`, by default `~/.cache/psanet-serving`, and may be deleted at any time.

    cache = Cache(default_folder())
    plan = cache.load("plan", facts) or build()
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inference.files import write_atomically

log = logging.getLogger(__name__)

Facts = Mapping[str, object]
"""What a file depends on: plain values by name. Another value, or another name, is another file."""

_CHECKSUM_BYTES = 32


def default_folder() -> Path:
    """Where the user's caches belong."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "psanet-serving"
    try:
        home = Path.home()
    except (
        RuntimeError
    ):  # a user without one: a place where nothing can be kept, rather than one of everyone's
        home = Path(os.devnull)
    return home / ".cache" / "psanet-serving"


@dataclass(frozen=True)
class Cache:
    """Files in `folder`, which is made when the first is stored. keep: files of a kind, the latest stay."""

    folder: Path
    keep: int = 16

    def load(self, kind: str, facts: Facts) -> bytes | None:
        """What was stored for the same facts; None where nothing was, or where it is damaged."""
        path = self._path(kind, facts)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the cache %s cannot be read: %s", path, error.strerror or error)
            return None
        checksum, content = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() != checksum:
            log.warning("%s is damaged and not used", path)
            return None
        return content

    def store(self, kind: str, facts: Facts, content: bytes) -> None:
        """Keeps it, at once or not at all."""
        path = self._path(kind, facts)
        try:
            write_atomically(path, hashlib.sha256(content).digest() + content)
            paths = sorted(path.parent.glob(f"{kind}-*"), key=lambda item: item.stat().st_mtime, reverse=True)
            for old in paths[self.keep :]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be kept: %s", path, error.strerror or error)

    def _path(self, kind: str, facts: Facts) -> Path:
        text = json.dumps(facts, sort_keys=True)
        return self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:40]}"
