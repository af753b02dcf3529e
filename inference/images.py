"""Image files to RGB arrays, for bytes that nobody vouches for.

Not a renderer (`render.py`). Whatever is wrong with the bytes comes out as one of three `ImageError`s.

    python -c "import sys, inference.images as i; print(i.read_image(sys.argv[1]).shape)" photo.jpg

Pillow decodes all formats. OpenCV is 2 ms faster on a JPEG of 2048x1024 (6.9 against 8.8 ms), the same to the
bit; that does not pay for a second decoder with its own rules for CMYK, palettes and orientation, and with
warnings on stderr. The plugins are called directly, not through `Image.open`: that opens exactly the six
formats, and the pixel cap is an argument here, where Pillow's belongs to the whole process.
"""

import errno
import io
import os
import stat
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from inference.color_profiles import to_srgb
from inference.errors import ImageError, ImageTooLargeError, UndecodableImageError, UnsupportedImageError
from inference.image_headers import (
    SUPPORTED_FORMATS,
    ImageHeader,
    check_pixels,
    check_signature,
    read_container,
)

__all__ = ["MAX_PIXELS", "SUPPORTED_FORMATS", "ImageHeader", "decode_image", "identify", "read_image"]

MAX_PIXELS: Final = 50_000_000

_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags


def identify(data: bytes) -> ImageHeader:
    """Format, size and orientation, from the header alone: no pixel is decoded, whatever the size claimed.

    Raises UnsupportedImageError (not a supported type by content), UndecodableImageError (no usable header).
    """
    return read_container(data).header


def decode_image(
    data: bytes, *, max_pixels: int | None = MAX_PIXELS, profiles: bool = True
) -> npt.NDArray[np.uint8]:
    """The (first) picture of an image file as (H, W, 3) uint8 RGB, C-contiguous, writable.

    The Exif orientation is applied, 16-bit samples are scaled to 8 (their high byte), grey, palette, CMYK and
    YCbCr become RGB, alpha is dropped. `max_pixels` is held against the header before anything is decoded.
    profiles: colours are those that an ICC profile says, in sRGB; without, the numbers as they are stored, as
    the tools that published figures were measured with read them.

    Raises UnsupportedImageError (not a supported type; 32-bit and float samples, which have no fixed range),
    UndecodableImageError (truncated, corrupt, empty), ImageTooLargeError (more than `max_pixels`; TIFF and
    WebP also above Pillow's own 179 megapixels, whatever `max_pixels`).
    """
    container = read_container(data)
    header = container.header
    check_pixels(header.width, header.height, max_pixels)
    if max_pixels is not None and container.block_pixels > max_pixels:
        raise ImageTooLargeError(
            f"the {header.format} file has tiles of {container.block_pixels / 1e6:.1f} megapixels: "
            "save it with smaller tiles or without"
        )
    if not container.whole:
        raise UndecodableImageError(f"the {header.format} file is truncated: {_SEND_WHOLE}")
    try:
        image = _PLUGINS[header.format](io.BytesIO(container.body))
        check_pixels(image.width, image.height, max_pixels)  # GIF: a frame may be larger than the screen
        if image.size != (header.width, header.height):  # what was planned by the header would not hold
            said, found = f"{header.width}x{header.height}", f"{image.width}x{image.height}"
            raise UndecodableImageError(
                f"the {header.format} file says it has {said} pixels, but elsewhere {found}: save it anew"
            )
        image.load()
        return _upright_rgb(image, header, container.profile if profiles else b"")
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # TIFF and WebP hold to it by themselves
        raise ImageTooLargeError(f"{error}: send a smaller image") from error
    except Exception as error:
        # On corrupt input Pillow raises nearly anything: OSError, SyntaxError, ValueError, struct.error,
        # OverflowError, KeyError, MemoryError … Whatever it is, these bytes give no image.
        reason = str(error) or type(error).__name__
        raise UndecodableImageError(
            f"the {header.format} file is truncated or corrupt ({reason}): {_SEND_WHOLE}"
        ) from error


def read_image(
    path: str | os.PathLike[str], *, max_pixels: int | None = MAX_PIXELS, profiles: bool = True
) -> npt.NDArray[np.uint8]:
    """`decode_image` of a file; OSError where it cannot be read. Other types are not read to their end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would be waited for without end
        raise OSError(errno.EINVAL, "no ordinary file: save the image to one", os.fspath(path))
    with open(path, "rb") as file:
        beginning = file.read(4096)
        check_signature(beginning)
        data = beginning + file.read()
    return decode_image(data, max_pixels=max_pixels, profiles=profiles)


_SEND_WHOLE = "send the whole file, or save it anew"


def _upright_rgb(image: ImageFile.ImageFile, header: ImageHeader, profile: bytes) -> npt.NDArray[np.uint8]:
    picture: Image.Image = image
    if image.mode.startswith("I;16"):
        picture = Image.fromarray(_high_byte(image))
    elif image.mode in ("I", "F", "LAB"):
        raise UnsupportedImageError(
            f"the {header.format} file holds {image.mode} samples (32-bit, signed, floating-point or Lab), "
            "which have no fixed range: convert it to 8 or 16 bits per channel, RGB or grey"
        )
    image.info.pop("transparency", None)  # Pillow would warn of what we drop anyway
    if profile and picture.mode not in ("RGB", "CMYK", "L"):
        # Alpha is dropped, and a profile of grey stays one of grey.
        picture = picture.convert("L" if picture.mode in ("1", "LA", "La") else "RGB")
    picture = to_srgb(picture, profile)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    if header.orientation != 1:
        picture = picture.transpose(_TRANSPOSE[header.orientation])
    return np.array(picture)


def _high_byte(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """16-bit grey to 8, as Pillow itself does for 16-bit RGB; TIFF may hold 12 bits, and white as 0."""
    grey, bits, white_is_zero = np.asarray(image), 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]
        white_is_zero = image.tag_v2.get(_PHOTOMETRIC) == 0
    grey = (grey >> (bits - 8)).astype(np.uint8)
    return 255 - grey if white_is_zero else grey
