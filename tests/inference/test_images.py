"""Decoding is right for every kind of image, and every kind of bad input is one of three clear errors."""

import contextlib
import ctypes
import gc
import io
import os
import random
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inference.errors import ImageError, ImageTooLargeError, UndecodableImageError, UnsupportedImageError
from inference.images import SUPPORTED_FORMATS, decode_image, identify, read_image

H, W = 11, 23
SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8), (W, H))
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: np.rot90(stored),
}
"""From what is stored to what is seen, by Exif orientation."""


def encoded(image: Image.Image | np.ndarray, format: str, **options: Any) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[274] = orientation
    return block.tobytes()


def png(width: int, height: int, idat: bytes, *before: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", idat), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(entries: list[tuple[int, int, int, int]], pixels: bytes, start: int = 8) -> bytes:
    """Little-endian, `pixels` at 8, then the directory of (tag, type, count, value)."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    directory = struct.pack("<H", len(entries)) + table + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", start + len(pixels)) + pixels + directory


def samples() -> dict[str, bytes]:
    """Whole files of every format, in their variants."""
    picture = Image.fromarray(cv2.resize(SMOOTH, (61, 47), interpolation=cv2.INTER_CUBIC))
    grey16 = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    frames: dict[str, Any] = {"save_all": True, "append_images": [picture.rotate(180).convert("P")]}
    return {
        "JPEG": encoded(picture, "JPEG", exif=exif(6), icc_profile=bytes(300), comment=b"a comment"),
        "JPEG progressive": encoded(picture, "JPEG", progressive=True),
        "JPEG restarts": encoded(picture, "JPEG", restart_marker_blocks=2),
        "JPEG grey": encoded(picture.convert("L"), "JPEG"),
        "JPEG CMYK": encoded(picture.convert("CMYK"), "JPEG"),
        "PNG": encoded(picture, "PNG", exif=exif(3)),
        "PNG palette": encoded(picture.convert("P"), "PNG", transparency=0),
        "PNG 16 bits": encoded(grey16, "PNG"),
        "PNG 1 bit": encoded(picture.convert("1"), "PNG"),
        "WebP": encoded(picture, "WEBP", exif=exif(8)),
        "WebP lossless": encoded(picture.convert("RGBA"), "WEBP", lossless=True),
        "WebP animated": encoded(picture, "WEBP", **frames),
        "BMP": encoded(picture, "BMP"),
        "BMP palette": encoded(picture.convert("P"), "BMP"),
        "TIFF": encoded(picture, "TIFF", tiffinfo={274: 6, 270: "text"}),
        "TIFF LZW": encoded(picture, "TIFF", compression="tiff_lzw"),
        "TIFF Deflate": encoded(picture.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": encoded(picture, "TIFF", compression="jpeg"),
        "TIFF 16 bits": encoded(grey16, "TIFF"),
        "TIFF pages": encoded(picture, "TIFF", **frames),
        "GIF": encoded(picture.convert("P"), "GIF"),
        "GIF animated": encoded(picture.convert("P"), "GIF", **frames),
    }


SAMPLES = samples()


def peak_kib() -> int:
    """Highest resident memory of this process since `/proc/self/clear_refs` was told to forget it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def start_measuring() -> int:
    """Forgets the peak, and gives it anew. What earlier tests freed goes back to the system first: in it a
    bomb would not show."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory can only be measured on Linux")
    gc.collect()
    with contextlib.suppress(AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kib()


@pytest.fixture
def memory_bound() -> Iterator[None]:
    """Fails where the test needs more than 64 MB beside what the process already holds."""
    before = start_measuring()
    yield
    assert peak_kib() - before < 64 * 1024, f"peak memory grew by {(peak_kib() - before) // 1024} MB"


class TestWhatIsSeen:
    @pytest.mark.parametrize("name", SAMPLES)
    def test_every_format_gives_writable_rgb_of_the_size_identified(self, name: str) -> None:
        image = decode_image(SAMPLES[name])
        header = identify(SAMPLES[name])
        assert header.format == name.split()[0]
        assert header.format in SUPPORTED_FORMATS
        assert image.shape == (*header.upright_hw, 3)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.flags.writeable

    @pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
    def test_lossless_formats_are_exact(self, format: str) -> None:
        assert np.array_equal(decode_image(encoded(SMOOTH, format)), SMOOTH)

    def test_webp_is_rgb_not_bgr(self) -> None:
        assert np.array_equal(decode_image(encoded(SMOOTH, "WEBP", lossless=True)), SMOOTH)

    def test_jpeg_is_close(self) -> None:
        image = decode_image(encoded(SMOOTH, "JPEG", quality=95, subsampling=0))
        assert np.abs(image.astype(int) - SMOOTH).max() < 12

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "TIFF LZW"])
    def test_exif_orientation_is_applied(self, format: str, orientation: int) -> None:
        if format.startswith("TIFF"):
            compression = "tiff_lzw" if format.endswith("LZW") else None
            data = encoded(SMOOTH, "TIFF", compression=compression, tiffinfo={274: orientation})
        else:
            data = encoded(SMOOTH, format, exif=exif(orientation), lossless=True)
        assert identify(data).orientation == orientation
        assert np.array_equal(decode_image(data), UPRIGHT[orientation](SMOOTH))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_of_a_jpeg_is_applied(self, orientation: int) -> None:
        plain = decode_image(encoded(SMOOTH, "JPEG"))
        turned = decode_image(encoded(SMOOTH, "JPEG", exif=exif(orientation)))
        assert np.array_equal(turned, UPRIGHT[orientation](plain))

    @pytest.mark.parametrize(
        "block",
        [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40), exif(6)[:-5], exif(9)],
        ids=["none", "empty", "offset outside", "zeros", "cut", "orientation 9"],
    )
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_broken_exif_is_ignored(self, format: str, block: bytes) -> None:
        image = decode_image(encoded(SMOOTH, format, exif=block))
        assert np.array_equal(image, decode_image(encoded(SMOOTH, format)))

    @pytest.mark.parametrize("extension", [".png", ".tiff"])
    def test_16_bits_are_scaled_not_clipped(self, extension: str) -> None:
        ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        grey = cv2.imencode(extension, ramp)[1].tobytes()
        colour = cv2.imencode(extension, np.dstack([ramp, ramp.T, ramp[::-1]]))[1].tobytes()
        alpha = cv2.imencode(extension, np.dstack([ramp, ramp.T, ramp[::-1], ramp]))[1].tobytes()
        ramp8 = (ramp // 257).astype(np.uint8)
        assert np.array_equal(decode_image(grey), np.dstack([ramp8] * 3))
        assert np.array_equal(decode_image(colour), np.dstack([ramp8[::-1], ramp8.T, ramp8]))
        assert np.array_equal(decode_image(alpha), np.dstack([ramp8[::-1], ramp8.T, ramp8]))

    @pytest.mark.parametrize("order", [">", "<"])
    def test_16_bit_grey_of_either_byte_order(self, order: str) -> None:
        ramp = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(2, 8)
        entries = [(256, 8), (257, 2), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 32)]
        table = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
        mark = b"II" if order == "<" else b"MM"
        data = mark + struct.pack(order + "HI", 42, 40) + ramp.astype(order + "u2").tobytes()
        data += struct.pack(order + "H", len(entries)) + table + bytes(4)
        assert np.array_equal(decode_image(data)[:, :, 0], (ramp >> 8).astype(np.uint8))

    def test_12_bit_grey_fills_the_range(self) -> None:
        entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
        data = tiff([(tag, 4, 1, value) for tag, value in entries], b"\xff\xf8\x00\0")
        assert decode_image(data)[0, :, 0].tolist() == [255, 128]

    def test_16_bit_grey_with_white_as_zero_is_inverted(self) -> None:
        entries = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 0), (273, 8), (277, 1), (278, 1), (279, 4)]
        data = tiff([(tag, 4, 1, value) for tag, value in entries], struct.pack("<HH", 0, 65535))
        assert decode_image(data)[0, :, 0].tolist() == [255, 0]

    @pytest.mark.parametrize(
        ("format", "mode"),
        [
            *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA")),
            *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr")),
        ],
    )
    def test_modes_become_rgb(self, mode: str, format: str) -> None:
        picture = Image.fromarray(SMOOTH).convert(mode)
        expected = np.asarray(picture.convert("RGB"))
        assert np.array_equal(decode_image(encoded(picture, format)), expected)

    def test_cmyk_jpeg_is_not_inverted(self) -> None:
        inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow: red
        red = decode_image(encoded(inks, "JPEG", quality=95))
        assert np.abs(red.astype(int) - [255, 0, 0]).max() < 10

    def test_alpha_is_dropped_not_blended(self) -> None:
        transparent = np.dstack([SMOOTH, np.zeros((H, W), np.uint8)])
        assert np.array_equal(decode_image(encoded(transparent, "PNG")), SMOOTH)

    @pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
    def test_palette_with_transparency_keeps_its_colours(self, transparency: int | bytes) -> None:
        picture = Image.fromarray(SMOOTH).quantize(16)
        expected = np.asarray(picture.convert("RGB"))
        data = encoded(picture, "PNG", transparency=transparency)
        assert np.array_equal(decode_image(data), expected)

    @pytest.mark.parametrize("name", ["GIF animated", "WebP animated", "TIFF pages"])
    def test_the_first_frame_counts(self, name: str) -> None:
        still = decode_image(SAMPLES[name.split()[0]])
        first = decode_image(SAMPLES[name])
        if name == "TIFF pages":
            first = np.rot90(first, -1)  # the still TIFF is stored with an orientation
        if name == "WebP animated":
            first = np.rot90(first)
        assert np.abs(first.astype(int) - still).mean() < 4

    @pytest.mark.parametrize("hw", [(1, 1), (1, 5000), (5000, 1)])
    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
    def test_thin_images(self, hw: tuple[int, int], format: str) -> None:
        assert decode_image(encoded(Image.new("RGB", hw[::-1], "teal"), format)).shape == (*hw, 3)

    def test_big_tiff(self) -> None:
        data = encoded(SMOOTH, "TIFF", big_tiff=True)
        assert data[2] == 43
        assert np.array_equal(decode_image(data), SMOOTH)


class TestRefusals:
    def test_no_bytes(self) -> None:
        with pytest.raises(UndecodableImageError, match="empty"):
            decode_image(b"")

    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (b"just some text, named photo.jpg", "not an image"),
            (b"%PDF-1.7 ...", "a PDF"),
            (b"\0\0\0\x20ftypheic" + bytes(40), "HEIC"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"BMs are text too, sometimes", "not an image"),
            (bytes(100), "not an image"),
        ],
    )
    def test_other_types_are_named_beside_what_is_supported(self, data: bytes, what: str) -> None:
        with pytest.raises(UnsupportedImageError, match=what) as caught:
            decode_image(data)
        assert all(name in str(caught.value) for name in SUPPORTED_FORMATS)

    @pytest.mark.parametrize("name", SAMPLES)
    def test_a_truncated_file_is_an_error_or_complete(self, name: str) -> None:
        data, whole = SAMPLES[name], decode_image(SAMPLES[name])
        cuts = {*range(1, 40), *range(40, len(data), max(1, len(data) // 60)), len(data) - 2, len(data) - 1}
        for cut in sorted(cuts):
            try:
                image = decode_image(data[:cut])
            except ImageError:
                continue
            # Only what follows the pixels of the first frame may be missing.
            assert np.array_equal(image, whole), f"{name} cut at {cut} of {len(data)} gave part of an image"

    @pytest.mark.parametrize("name", ["JPEG", "JPEG progressive", "PNG", "WebP"])
    @pytest.mark.parametrize("missing", [1, 2, 100])
    def test_files_that_mark_their_end_must_reach_it(self, name: str, missing: int) -> None:
        with pytest.raises(UndecodableImageError, match="truncated"):
            decode_image(SAMPLES[name][:-missing])

    def test_a_download_whose_end_is_still_zeros_is_truncated(self) -> None:
        for name in ("JPEG", "JPEG progressive", "PNG"):
            data = SAMPLES[name]
            with pytest.raises(UndecodableImageError, match="truncated"):
                decode_image(data[: len(data) * 2 // 3] + bytes(len(data) // 3))

    def test_pixels_are_capped_by_the_header(self) -> None:
        data = encoded(SMOOTH, "PNG")
        assert decode_image(data, max_pixels=H * W).shape == (H, W, 3)
        assert decode_image(data, max_pixels=None).shape == (H, W, 3)
        with pytest.raises(ImageTooLargeError, match="at most"):
            decode_image(data, max_pixels=H * W - 1)

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_samples_without_a_range_are_unsupported(self, mode: str) -> None:
        data = encoded(Image.fromarray(SMOOTH).convert("L").convert(mode), "TIFF")
        with pytest.raises(UnsupportedImageError, match="8 or 16 bits"):
            decode_image(data)

    def test_fax_compression_is_unsupported(self) -> None:
        with pytest.raises(UnsupportedImageError, match="LZW"):
            decode_image(encoded(Image.fromarray(SMOOTH).convert("1"), "TIFF", compression="group4"))

    def test_a_file_that_cannot_be_read_is_an_oserror(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_image(tmp_path / "missing.png")
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(OSError, match="no ordinary file"):
            read_image(tmp_path / "pipe.png")
        (tmp_path / "here.png").write_bytes(SAMPLES["PNG"])
        assert np.array_equal(read_image(tmp_path / "here.png"), decode_image(SAMPLES["PNG"]))

    def test_of_a_large_file_of_another_type_only_the_beginning_is_read(
        self, tmp_path: Path, memory_bound: None
    ) -> None:
        with open(tmp_path / "video.jpg", "wb") as file:
            file.write(b"\0\0\0\x20ftypisom")
            file.truncate(2_000_000_000)  # a hole: it takes no room on the disk
        with pytest.raises(UnsupportedImageError, match="a video"):
            read_image(tmp_path / "video.jpg")


ONE_PIXEL = zlib.compress(b"\0\1\2\3")
DEFLATED_300_MB = zlib.compress(bytes(300_000_000), 1)


def overlapping_tags() -> bytes:
    """1x1 pixels, and 60,000 tags that each claim the same 8 MB as their value."""
    pixels = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    claims = [(tag, 1, 8_000_000, 8) for tag in range(1000, 61_000)]
    return tiff([*((tag, 4, 1, value) for tag, value in pixels), *claims], bytes(8_000_000))


def tile_bomb() -> bytes:
    """1x1 pixels in a tile of 20,000x20,000."""
    tile = zlib.compress(bytes(1_000_000))
    entries = [(256, 1), (257, 1), (258, 8), (259, 8), (262, 1), (277, 1), (322, 20_000), (323, 20_000)]
    entries += [(324, 8), (325, len(tile))]
    return tiff([(tag, 4, 1, value) for tag, value in entries], tile)


def many_scans() -> bytes:
    data = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + 1000 * last + data[-2:]


def hidden_scans() -> bytes:
    """The same behind a comment that holds what looks like the end of the picture."""
    data = many_scans()
    first = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    return data[:first] + b"\xff\xfe\0\x04\xff\xd9" + data[first:]


BOMBS: dict[str, tuple[Callable[[], bytes], type[ImageError] | None]] = {
    "PNG 60,000x60,000": (lambda: png(60_000, 60_000, zlib.compress(bytes(1_000_000))), ImageTooLargeError),
    "PNG 2^31-1 a side": (lambda: png(2**31 - 1, 2**31 - 1, ONE_PIXEL), ImageTooLargeError),
    "GIF 65,535x65,535": (lambda: b"GIF89a" + b"\xff" * 4 + SAMPLES["GIF"][10:], ImageTooLargeError),
    "GIF frame beyond screen": (
        lambda: b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;",
        ImageTooLargeError,
    ),
    "WebP 2^24 a side": (
        lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6,
        ImageTooLargeError,
    ),
    "TIFF tile": (tile_bomb, ImageTooLargeError),
    # What the bombs hide in never reaches the decoder, so the pixel comes out.
    "PNG text": (
        lambda: png(1, 1, ONE_PIXEL, *[chunk(b"zTXt", b"k\0\0" + DEFLATED_300_MB)] * 5),
        None,
    ),
    "PNG profile": (lambda: png(1, 1, ONE_PIXEL, chunk(b"iCCP", b"k\0\0" + DEFLATED_300_MB)), None),
    "PNG pixels": (lambda: png(1, 1, DEFLATED_300_MB), None),
    "TIFF tags": (overlapping_tags, None),
    "JPEG scans": (many_scans, UndecodableImageError),
    "JPEG scans behind a false end": (hidden_scans, UndecodableImageError),
    "PNG chunks": (lambda: png(1, 1, ONE_PIXEL, chunk(b"tEXt", b"") * 500_000), UndecodableImageError),
    "JPEG markers": (
        lambda: b"\xff\xd8" + b"\xff\xe1\0\2" * 2_000_000 + SAMPLES["JPEG"][2:],
        UndecodableImageError,
    ),
    "BMP runs": (
        lambda: b"BM" + struct.pack("<IIIIiiHHII", 0, 0, 54, 40, 7000, 7000, 1, 8, 1, 0) + bytes(9_000_000),
        UnsupportedImageError,
    ),
}


class TestBombs:
    @pytest.mark.parametrize("name", BOMBS)
    def test_a_bomb_costs_neither_time_nor_memory(self, name: str, memory_bound: None) -> None:
        make, refusal = BOMBS[name]
        data = make()
        started = time.process_time()
        if refusal is None:
            assert decode_image(data).shape == (1, 1, 3)
        else:
            with pytest.raises(refusal):
                decode_image(data)
        assert time.process_time() - started < 1.0

    def test_the_measure_of_memory_sees_a_bomb_go_off(self) -> None:
        before = start_measuring()
        decode_image(encoded(Image.new("1", (6_000, 5_000)), "PNG"))
        assert peak_kib() - before > 64 * 1024

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF"])
    def test_pillows_process_wide_limit_is_neither_used_nor_changed(
        self, format: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert decode_image(SAMPLES[format]).size > 10
        assert Image.MAX_IMAGE_PIXELS == 10


class TestMutations:
    @given(st.sampled_from(sorted(SAMPLES)), st.randoms(use_true_random=False))
    @settings(max_examples=400, deadline=None)
    def test_corrupt_files_give_an_image_or_an_image_error(self, name: str, rng: random.Random) -> None:
        data = bytearray(SAMPLES[name])
        for _ in range(rng.choice((1, 2, 5, 20))):
            at = rng.randrange(min(len(data), rng.choice((40, 200, len(data)))))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            elif kind == 1 and len(data) > 40:
                del data[at : at + rng.choice((1, 2, 10))]
            elif kind == 2:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 20)))
            else:
                value = rng.choice((2**31 - 1, 2**32 - 1, 65_535, 2**24, 60_000))
                data[at : at + 4] = value.to_bytes(4, rng.choice(("little", "big")))
        try:
            image = decode_image(bytes(data), max_pixels=1_000_000)
        except ImageError:
            return
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.dtype == np.uint8
        assert image.shape[0] * image.shape[1] <= 1_000_000

    @given(st.binary(max_size=200), st.sampled_from([data[:12] for data in SAMPLES.values()]))
    @settings(max_examples=300, deadline=None)
    def test_noise_behind_a_signature_is_an_image_error(self, noise: bytes, signature: bytes) -> None:
        with pytest.raises(ImageError):
            decode_image(signature + noise, max_pixels=1_000_000)

    def test_threads_do_not_disturb_one_another(self) -> None:
        expected = {name: decode_image(data) for name, data in SAMPLES.items()}
        failures: list[str] = []

        def work(seed: int) -> None:
            names = list(SAMPLES) * 5
            random.Random(seed).shuffle(names)
            for name in names:
                if not np.array_equal(decode_image(SAMPLES[name]), expected[name]):
                    failures.append(name)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


@pytest.mark.parametrize("progressive", [False, True])
def test_a_video_behind_a_jpeg_is_not_taken_for_scans(progressive: bool) -> None:
    photo = encoded(Image.new("RGB", (32, 24), (10, 200, 30)), "JPEG", progressive=progressive)
    video = b"\xff\xda" * 1000
    assert np.array_equal(decode_image(photo + video), decode_image(photo))
