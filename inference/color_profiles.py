"""Colours as a file's ICC profile means them, in sRGB, which is what networks are trained on.

Phones write Display P3, cameras Adobe RGB: taken for sRGB their colours are dull. Most profiles say sRGB, in
one of many wordings; those are told by what they do to a few colours, and cost nothing more.

Not here: where a file keeps its profile (`image_headers.py`).

    picture = to_srgb(picture, profile)
"""

import hashlib
import io
import logging
import threading

import numpy as np
from PIL import Image, ImageCms

from inference.icc_pieces import MAX_PROFILE_BYTES

log = logging.getLogger(__name__)

SAME_LEVELS = 2
"""Most that a colour may move by when a profile is called sRGB: what rounding and its wordings make."""

_MOST_KNOWN = 256
_known: dict[tuple[bytes, str], bool] = {}
_lock = threading.Lock()
_SPACES = {"RGB": "RGB ", "CMYK": "CMYK", "L": "GRAY"}


def to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """`picture` in sRGB, mode RGB; itself where the profile is empty, of other samples than the picture's,
    broken, or sRGB. Of a mode without profiles (palettes, say) itself, too."""
    if not profile or len(profile) > MAX_PROFILE_BYTES or picture.mode not in _SPACES:
        return picture
    try:
        if not _changes(profile, picture.mode):
            return picture
        converted = ImageCms.applyTransform(picture, _transform(profile, picture.mode))
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        log.debug("a colour profile is not used: %s", error)
        return picture
    return picture if converted is None else converted


def _changes(profile: bytes, mode: str) -> bool:
    """Whether pictures of that mode look different in sRGB; found out once for a profile."""
    key = hashlib.sha256(profile).digest(), mode
    with _lock:
        if key in _known:
            return _known[key]
    found = _found_to_change(profile, mode)
    with _lock:
        if len(_known) >= _MOST_KNOWN:
            _known.pop(next(iter(_known)))
        _known[key] = found
    return found


def _found_to_change(profile: bytes, mode: str) -> bool:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if opened.profile.xcolor_space != _SPACES[mode]:
        return False
    if mode == "CMYK":  # without a profile it is converted by a rule of thumb
        return True
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1).reshape(1, -1, 3)
    colours = Image.fromarray(grid) if mode == "RGB" else Image.fromarray(grid[..., 0])
    converted = ImageCms.applyTransform(colours, _transform(profile, mode))
    before, after = np.asarray(colours.convert("RGB"), np.int16), np.asarray(converted, np.int16)
    return bool(np.abs(after - before).max() > SAME_LEVELS)


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """Made for each picture: it must not be shared by threads."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
