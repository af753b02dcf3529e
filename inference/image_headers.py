"""What the bytes of an image file say about themselves, read without decoding a pixel.

Not a decoder: `images.py` decodes. Written by hand rather than asked of a library for three reasons: the
size must be known before any library allocates for it; a truncated file must be told from a whole one for
certain (decoders may fill what is missing with grey and go on); and metadata that we never use (text, XMP,
thumbnails), where decompression bombs like to hide, need not reach the decoder at all.

    python -c "import sys; from inference.image_headers import read_container as r; \
print(r(open(sys.argv[1], 'rb').read()).header)" photo.jpg

Sources: ITU T.81 annex B (JPEG), W3C PNG third edition, RFC 9649 (WebP), TIFF 6.0, Exif 2.32 section 4.6.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from inference import tiff_tags
from inference.errors import ImageTooLargeError, UndecodableImageError, UnsupportedImageError
from inference.icc_pieces import MAX_PROFILE_BYTES, JpegProfile, png_profile

SUPPORTED_FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF")

# Far more than any encoder writes; small enough that a file made of nothing but markers costs no time.
_MAX_PARTS = 100_000
# A progressive JPEG has about ten scans. Every scan passes over the whole image, whatever its own size.
_MAX_JPEG_SCANS = 64
# A marker, unlike bytes of a scan that look like one: stuffed zeros, fill bytes and restart markers.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Pillow decodes run-length coded BMP in Python, run by run.
_MAX_RLE_BYTES = 4_000_000
# Those of photographs. The fax decoders, for one, write a line to stderr for each row that they dislike.
_TIFF_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate (old)",
}

_NAMED_STRANGERS = (
    (0, b"%PDF", "a PDF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif", "HEIF"),
    (4, b"ftyp", "a video"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "a Windows icon"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML"),
    (0, b"PK\x03\x04", "a ZIP archive"),
)


@dataclass(frozen=True)
class ImageHeader:
    """Format and size as stored; `orientation` is Exif's 1..8 (1: upright; 5..8 swap height and width)."""

    format: str
    width: int
    height: int
    orientation: int = 1

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def upright_hw(self) -> tuple[int, int]:
        """(height, width) once the orientation is applied."""
        hw = (self.height, self.width)
        return hw if self.orientation < 5 else (hw[1], hw[0])


@dataclass(frozen=True)
class Container:
    """A file taken apart.

    header: what it claims; body: what the decoder needs, without metadata; whole: whether the file reaches
    its own end, as far as the container tells (the decoder judges GIF, BMP and TIFF); block_pixels: pixels of
    the largest block that the decoder allocates beside the image (a TIFF tile may be larger than its image);
    profile: the ICC profile of its colours, empty where there is none.
    """

    header: ImageHeader
    body: bytes
    whole: bool = True
    block_pixels: int = 0
    profile: bytes = b""


def read_container(data: bytes) -> Container:
    """Identify `data` by content and read its header; costs microseconds and no memory beside one copy.

    Raises UnsupportedImageError (not a supported type), UndecodableImageError (a broken or missing header).
    """
    name, reader = _recognised(data)
    try:
        container = reader(data)
    except (struct.error, IndexError) as error:
        raise UndecodableImageError(f"the {name} file ends inside its header: it is truncated") from error
    if container.header.width < 1 or container.header.height < 1:
        raise UndecodableImageError(f"the {name} file claims a size of zero: it is corrupt")
    return container


def check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    """Raise ImageTooLargeError for more pixels than that."""
    if max_pixels is not None and width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width * height / 1e6:.1f} megapixels ({width}x{height}), "
            f"at most {max_pixels / 1e6:g} are accepted: make it smaller or raise the limit"
        )


def check_signature(beginning: bytes) -> None:
    """The errors of `read_container` that the first bytes of a file suffice for."""
    _recognised(beginning)


def _recognised(data: bytes) -> tuple[str, Callable[[bytes], Container]]:
    if not data:
        raise UndecodableImageError("the image is empty (0 bytes): send or name a file with content")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", _read_jpeg
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", _read_png
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", _read_webp
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF", _read_tiff
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", _read_gif
    if data.startswith(b"BM"):
        return "BMP", _read_bmp
    if len(data) < 12 and any(
        magic.startswith(data) for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")
    ):
        raise UndecodableImageError(f"the image ends after {len(data)} bytes: it is truncated")
    names = (name for offset, magic, name in _NAMED_STRANGERS if data.startswith(magic, offset))
    what = next(names, "not an image")
    raise UnsupportedImageError(
        f"this is {what}, judged by its content (its name does not count): "
        f"convert it to one of {', '.join(SUPPORTED_FORMATS)}"
    )


def _read_jpeg(data: bytes) -> Container:
    """Markers up to the first scan. Of the application segments only JFIF and Adobe concern colours."""
    width = height = 0
    orientation = 1
    keep, profile = [data[:2]], JpegProfile()
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xDA:
            body = b"".join([*keep, data[start:]])
            end = _jpeg_end(data, start)
            scans = data.count(b"\xff\xda", start, end)
            if scans > _MAX_JPEG_SCANS:
                raise UndecodableImageError(
                    f"the JPEG file has {scans} scans, at most {_MAX_JPEG_SCANS} are decoded: save it anew"
                )
            if not width:
                raise UndecodableImageError("the JPEG file has pixels but no frame header: it is corrupt")
            # Entropy-coded data never holds FFD9: the marker is there if the file reaches its end.
            whole = data.rfind(b"\xff\xd9", start) >= 0
            header = ImageHeader("JPEG", width, height, orientation)
            return Container(header, body, whole, profile=profile.joined())
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, start + 5)
        elif marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0" and orientation == 1:
            orientation = tiff_tags.exif_orientation(data[start + 10 : end])
        elif marker == 0xE2:
            profile.add(data[start + 4 : end])
        if marker not in range(0xE1, 0xEE) and marker not in (0xEF, 0xFE):
            keep.append(data[start:end])
    if not width:
        raise UndecodableImageError("the JPEG file ends inside its header: it is truncated")
    return Container(ImageHeader("JPEG", width, height, orientation), b"", whole=False)


def _jpeg_end(data: bytes, start: int) -> int:
    """Where the picture that has its first scan at `start` ends: phones append videos and other pictures.

    What a segment holds is no end, else a comment could hide scans from who counts them.
    """
    position = start
    for _ in range(_MAX_PARTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            return len(data)
        position, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:
            return position
        if marker >= 0xC0 and marker != 0xD8:  # those below have no length either
            position += int.from_bytes(data[position : position + 2], "big")
    return len(data)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment after the image's start; ends with a scan or with the data."""
    position = 2
    for _ in range(_MAX_PARTS):
        start = data.find(b"\xff", position)
        if start < 0 or start + 4 > len(data):
            return
        marker = data[start + 1]
        if marker == 0xFF:  # a fill byte
            position = start + 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # without a length
            position = start + 2
        else:
            position = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
            yield marker, start, position
            if marker == 0xDA:
                return
    raise UndecodableImageError("the JPEG file is nothing but markers: it is corrupt")


def _read_png(data: bytes) -> Container:
    """Chunks to the end. Only those that say anything about the pixels of the (first) image are kept."""
    if data[12:16] != b"IHDR":
        raise UndecodableImageError("the PNG file does not begin with its header: it is corrupt")
    width, height = struct.unpack_from(">II", data, 16)
    orientation, whole, keep, position, profile = 1, False, [data[:8]], 8, b""
    for _ in range(_MAX_PARTS):
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if len(kind) < 4 or end > len(data):
            break
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            keep.append(data[position:end])
        elif kind == b"eXIf":
            orientation = tiff_tags.exif_orientation(data[position + 8 : end - 4])
        elif kind == b"iCCP":
            profile = png_profile(data[position + 8 : end - 4])
        position = end
        if kind == b"IEND":
            whole = True
            break
    else:
        raise UndecodableImageError(f"the PNG file has more than {_MAX_PARTS} chunks: save it anew")
    return Container(ImageHeader("PNG", width, height, orientation), b"".join(keep), whole, profile=profile)


def _read_webp(data: bytes) -> Container:
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise UndecodableImageError("the WebP file begins with an unknown chunk: it is corrupt")
    if len(data) < 30:
        raise UndecodableImageError("the WebP file ends inside its header: it is truncated")
    orientation, position, profile = 1, 12, b""
    for _ in range(_MAX_PARTS):
        if kind != b"VP8X" or position + 8 > len(data):  # only the extended format carries Exif
            break
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"EXIF":
            exif = data[position + 8 : position + 8 + size]
            orientation = tiff_tags.exif_orientation(exif.removeprefix(b"Exif\0\0"))
        elif data[position : position + 4] == b"ICCP" and size <= MAX_PROFILE_BYTES:
            profile = data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    whole = len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return Container(ImageHeader("WebP", width, height, orientation), data, whole, profile=profile)


def _read_gif(data: bytes) -> Container:
    width, height = struct.unpack_from("<HH", data, 6)
    return Container(ImageHeader("GIF", width, height), data)


def _read_bmp(data: bytes) -> Container:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    elif 40 <= header_size <= 124:
        width, height = struct.unpack_from("<ii", data, 18)
    else:  # two bytes are a weak signature: text may begin with BM
        raise UnsupportedImageError(
            "this is not an image, or a BMP of an unknown kind: "
            f"convert it to one of {', '.join(SUPPORTED_FORMATS)}"
        )
    if header_size >= 40:
        (compression,) = struct.unpack_from("<I", data, 30)
        if compression in (1, 2) and len(data) > _MAX_RLE_BYTES:
            raise UnsupportedImageError("this is a run-length coded BMP of many bytes: save it as PNG")
    return Container(ImageHeader("BMP", width, abs(height)), data)


def _read_tiff(data: bytes) -> Container:
    try:
        tags = tiff_tags.read_directory(data)
    except struct.error as error:
        raise UndecodableImageError(
            "the TIFF file has no directory where its header says: it is truncated or corrupt"
        ) from error
    compression = tags.value(tiff_tags.COMPRESSION, 1)
    if compression not in _TIFF_COMPRESSIONS:
        raise UnsupportedImageError(
            f"the TIFF file is compressed by method {compression}: "
            f"save it with one of {', '.join(_TIFF_COMPRESSIONS.values())}"
        )
    orientation = tiff_tags.valid_orientation(tags.value(tiff_tags.ORIENTATION, 1))
    header = ImageHeader("TIFF", tags.value(tiff_tags.WIDTH, 0), tags.value(tiff_tags.HEIGHT, 0), orientation)
    block_pixels = tags.value(tiff_tags.TILE_WIDTH, 0) * tags.value(tiff_tags.TILE_HEIGHT, 0)
    profile = tags.content(tiff_tags.ICC_PROFILE, data, MAX_PROFILE_BYTES)
    body = tiff_tags.without_metadata(data, tags)
    return Container(header, body, block_pixels=block_pixels, profile=profile)
