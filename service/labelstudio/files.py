"""The image of a Label Studio task, from what stands in the task.

Taken are a data URI, base64, and, once PSANET_LABEL_STUDIO_FILES names a folder, what Label Studio keeps on
disk:

    data:image/jpeg;base64,/9j/4AAQ…      the image itself
    /data/upload/3/1f2e-street.jpg        FOLDER/upload/3/1f2e-street.jpg, in Label Studio's media folder
    /data/local-files/?d=streets/1.jpg    FOLDER/streets/1.jpg, below its document root

No address is ever fetched, that of Label Studio neither: whoever may send tasks could have the service ask
other machines in its name. Below FOLDER no link is followed, and nothing outside of it can be named.
"""

import base64
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from service.errors import Problem

_DATA_URI = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,8},", re.ASCII | re.IGNORECASE)
_UPLOADS, _LOCAL = "/data/upload/", "/data/local-files/"
_MOST_PARTS = 64


def read_task_image(value: str, folder: Path | None, max_bytes: int) -> bytes:
    """The content of the image file that `value` means. Reads a disk: not for the event loop.

    Raises Problem 413 (too many bytes) and 422 (not taken, not there).
    """
    if value[:5].lower() == "data:":
        found = _DATA_URI.match(value)
        if found is None or not found[0][:-1].lower().endswith(";base64"):
            raise _not_taken("a data URI has to look like data:image/jpeg;base64,…")
        return _decoded(value[found.end() :], max_bytes)
    parts = _path_below(value)
    if parts is not None:
        if folder is None:
            raise _not_taken(
                f"it lies in Label Studio ({value[:200]}), whose files this service cannot see: set "
                "PSANET_LABEL_STUDIO_FILES to their folder, as docs/label-studio.md says"
            )
        return _read_below(folder, parts, max_bytes)
    if "://" in value[:40]:
        raise _not_taken(
            f"{value[:200]} is an address, and this service fetches none: upload the images to Label Studio, "
            "or let it keep them as local files (docs/label-studio.md)"
        )
    return _decoded(value, max_bytes)


def _path_below(value: str) -> tuple[str, ...] | None:
    """Path below the folder of a file that Label Studio keeps; None where it means no such file."""
    if value.startswith(_UPLOADS):
        path = f"upload/{unquote(urlsplit(value).path.removeprefix(_UPLOADS))}"
    elif value.startswith(_LOCAL) or value.startswith(_LOCAL.rstrip("/") + "?"):
        path = parse_qs(urlsplit(value).query).get("d", [""])[-1].removeprefix("/")
    else:
        return None
    return tuple(path.split("/"))


def _read_below(folder: Path, parts: tuple[str, ...], max_bytes: int) -> bytes:
    """A file below a folder, opened step by step, each inside the last: no link and no `..` leads out."""
    name = "/".join(parts)[:200]
    if len(parts) > _MOST_PARTS or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise _not_taken(f"{name!r} is no path of a file")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inside = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inside
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would be waited for
        inside = os.open(parts[-1], flags, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inside
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_taken(f"{name} is no ordinary file")
        if status.st_size > max_bytes:
            raise _too_large(max_bytes)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes + 1)[:max_bytes]
    except (OSError, ValueError):  # ValueError: a name that the file system cannot hold
        raise _not_taken(
            f"{name} is no file in the folder that PSANET_LABEL_STUDIO_FILES names, or cannot be read"
        ) from None
    finally:
        os.close(descriptor)


def _decoded(text: str, max_bytes: int) -> bytes:
    if len(text) > (max_bytes + 2) // 3 * 4 + 4:
        raise _too_large(max_bytes)
    with suppress(ValueError):
        data = base64.b64decode(text, validate=True)
        if data:
            return data
    raise _not_taken("it is neither a data URI, nor base64, nor the path of a file in Label Studio")


def _not_taken(reason: str) -> Problem:
    detail = f"The image of the task cannot be had: {reason}."
    return Problem(422, "no_task_image", detail, title="No image")


def _too_large(max_bytes: int) -> Problem:
    detail = f"An image may have {max_bytes} bytes: make it smaller, or compress it."
    return Problem(413, "too_many_bytes", detail, title="Too many bytes")
