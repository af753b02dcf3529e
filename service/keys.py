"""API keys: who has one may ask. A file holds their hashes, one a line, and is read again when it changes.

    python -m service.keys alice >> keys.txt      makes a key: its line on stdout, the key itself on stderr
    PSANET_API_KEYS_FILE=keys.txt python -m service

    # name:sha256 of the key, in hexadecimal
    alice:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8

A key is 256 random bits, which no list of words or passwords holds: one round of SHA-256 is enough, and salt
would add nothing. To exchange a key, add a second line for the name, and take the old one out when nobody
uses it any more.
"""

import argparse
import base64
import hashlib
import hmac
import logging
import re
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers

logger = logging.getLogger(__name__)

PREFIX = "psanet_"
_LINE = re.compile(r"([A-Za-z0-9._@-]{1,64}):([0-9a-fA-F]{64})")
_LOOK_EVERY_S = 1.0
_LONGEST = 512


class KeysError(Exception):
    """A file of keys that cannot be used; the message names the line and the mend."""


class Keys:
    """The keys of a file. Raises KeysError where it cannot be used; later, what was there stays in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hashes: dict[bytes, str] = {}
        self._seen: object = None
        self._looked = 0.0
        self._read()

    def name_of(self, key: str) -> str | None:
        """Whose key it is; None for one that is in no line. Compares with all of them, in constant time."""
        self._look()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, name in self._hashes.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def reload(self) -> None:
        """Read the file again. What cannot be used leaves the old keys in force, and a line in the log."""
        try:
            self._read()
        except KeysError as error:
            logger.error("the API keys stay as they were: %s", error)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        if self._facts() != self._seen:
            self.reload()

    def _facts(self) -> object:
        try:
            facts = self._path.stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_size, facts.st_mtime_ns

    def _read(self) -> None:
        self._seen = self._facts()
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"{self._path} cannot be read: {error}") from None
        self._hashes = parse_keys(text, str(self._path))
        logger.info("%d API keys of %d names", len(self._hashes), len(set(self._hashes.values())))


def parse_keys(text: str, source: str) -> dict[bytes, str]:
    """Names by the hash of a key. Raises KeysError for a line that is none, and for a file without any."""
    hashes: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise KeysError(
                f"line {number} of {source} is not name:sha256: make one with python -m service.keys NAME"
            )
        hashes[bytes.fromhex(found[2])] = found[1]
    if not hashes:
        raise KeysError(f"{source} holds no key: make one with python -m service.keys NAME >> {source}")
    return hashes


def presented_key(headers: Headers | Mapping[str, str]) -> str | None:
    """The key in `Authorization: Bearer`, in `X-API-Key`, or as the password of `Authorization: Basic`, which
    is all that Label Studio can send; None where there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        key = token.strip()
    else:
        key = headers.get("x-api-key", "").strip()
        if not key and scheme.lower() == "basic":
            key = _password(token.strip())
    return key if 0 < len(key) <= _LONGEST else None


def _password(credentials: str) -> str:
    """Of base64(user:password); empty where there is none."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:  # no base64, no UTF-8
        return ""


def make_key(name: str) -> tuple[str, str]:
    """A new key, and the line for the file. Raises KeysError for a name that a line cannot hold."""
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    if _LINE.fullmatch(line) is None:
        raise KeysError(f"{name!r} is no name: up to 64 letters, digits and . _ @ -")
    return key, line


def main() -> int:
    """Make a key for a name."""
    parser = argparse.ArgumentParser(
        prog="python -m service.keys",
        description="Makes an API key: writes its line for the file of keys to stdout, and the key itself to "
        "stderr, where it is seen once and kept nowhere.",
    )
    parser.add_argument("name", help="whose it is: stands in metrics and logs")
    try:
        key, line = make_key(parser.parse_args().name)
    except KeysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(line)
    print(f"the key, shown only now: {key}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
