"""Colours of files with ICC profiles, against the profiles' own formulas in float64."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from inference.color_profiles import to_srgb
from inference.icc_pieces import MAX_PROFILE_BYTES
from inference.images import decode_image

# Primaries adapted to D50, as columns X, Y, Z of red, green, blue (ICC profiles of these names).
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
D50 = (0.9642, 1.0, 0.8249)


def made_profile(primaries: np.ndarray, gamma: float = 2.19921875, *, space: bytes = b"RGB ") -> bytes:
    """A version 2 display profile: a matrix and a power of gamma."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))
    if space == b"RGB ":
        tags = {b"rXYZ": xyz(primaries[:, 0]), b"gXYZ": xyz(primaries[:, 1]), b"bXYZ": xyz(primaries[:, 2])}
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    else:
        tags = {b"kTRC": curve}
    return assembled(tags, b"mntr", space, b"XYZ ")


def xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def assembled(tags: dict[bytes, bytes], kind: bytes, space: bytes, connection: bytes) -> bytes:
    """A version 2 profile: what every one has, and `tags`."""
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = {b"desc": name, b"cprt": b"text\0\0\0\0made", b"wtpt": xyz(D50)} | tags
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += key + struct.pack(">II", at + len(body), len(value))
        body += padded
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(value * 65536) for value in D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def made_press(lightness: np.ndarray) -> bytes:
    """A version 2 profile of four inks: CIE lightness, without colour, of each of the 16 overprints."""
    ramp = bytes(range(256))
    nodes = b"".join(bytes([round(each * 2.55), 128, 128]) for each in lightness)
    unit = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + unit + 4 * ramp + nodes + 3 * ramp
    return assembled({b"A2B0": table}, b"prtr", b"CMYK", b"Lab ")


def expected_srgb(pixels: np.ndarray, primaries: np.ndarray, gamma: float = 2.19921875) -> np.ndarray:
    linear = (pixels / 255.0) ** gamma @ primaries.T @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded)


def some_picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(picture: np.ndarray, format: str, profile: bytes | None) -> bytes:
    buffer = io.BytesIO()
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WebP": {"lossless": True}}.get(format, {})
    Image.fromarray(picture).save(buffer, format, icc_profile=profile, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WebP", "JPEG"])
def test_colours_of_another_profile_become_srgb(format: str) -> None:
    data = encoded(some_picture(), format, made_profile(ADOBE))
    stored = decode_image(data, profiles=False)
    if format != "JPEG":
        np.testing.assert_array_equal(stored, some_picture())
    found = decode_image(data)
    expected = expected_srgb(stored.astype(float), ADOBE)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found.astype(int) - stored).max() > 20


def test_srgb_in_any_wording_changes_nothing() -> None:
    plain = encoded(some_picture(), "PNG", None)
    named = encoded(some_picture(), "PNG", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    np.testing.assert_array_equal(decode_image(named), decode_image(plain))


def test_grey_with_a_profile_becomes_grey_of_srgb() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    found = decode_image(encoded(ramp, "PNG", made_profile(SRGB, 1.5, space=b"GRAY")))
    expected = expected_srgb(np.repeat(ramp[..., None].astype(float), 3, 2), SRGB, 1.5)
    assert np.abs(found - expected)[:, 16:].max() <= 2  # the library's table is coarse where it is darkest
    assert np.abs(found[..., 0].astype(int) - ramp).max() > 10
    with_alpha = io.BytesIO()
    profile = made_profile(SRGB, 1.5, space=b"GRAY")
    Image.fromarray(ramp).convert("LA").save(with_alpha, "PNG", icc_profile=profile)
    np.testing.assert_array_equal(decode_image(with_alpha.getvalue()), found)


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_inks_become_the_colours_that_their_profile_says(format: str) -> None:
    """A made-up press: lightness is 100 without ink, each ink takes a share of it, black most."""
    shares = np.array([0.3, 0.25, 0.1, 0.5])
    inks = np.array(list(itertools.product((0, 1), repeat=4)))
    lightness = 100 * np.prod(1 - shares * inks, axis=1)
    picture = Image.fromarray((255 * inks).astype(np.uint8).repeat(8, 0)[None].repeat(8, 0), "CMYK")
    buffer = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    picture.save(buffer, format, icc_profile=made_press(lightness), **options)
    found = decode_image(buffer.getvalue())[4, 4::8].astype(float)
    linear = ((lightness + 16) / 116) ** 3
    linear = (linear - linear.min()) / (1 - linear.min())  # the press's black becomes the screen's
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055).clip(0)
    assert np.abs(found - expected[:, None]).max() <= 3


def test_a_palette_with_a_profile_and_alpha_are_converted_too() -> None:
    colours = some_picture()[:1]
    profile = made_profile(ADOBE)
    for mode in ("P", "RGBA"):
        buffer = io.BytesIO()
        Image.fromarray(colours).convert(mode).save(buffer, "PNG", icc_profile=profile)
        stored = decode_image(buffer.getvalue(), profiles=False)
        expected = expected_srgb(stored.astype(float), ADOBE)
        assert np.abs(decode_image(buffer.getvalue()) - expected).max() <= 2


OF_NO_USE = {
    "none": b"",
    "text": b"not one",
    "cut short": made_profile(ADOBE)[:200],
    "of grey": made_profile(ADOBE, space=b"GRAY"),
    "huge": bytes(MAX_PROFILE_BYTES + 1),
}


@pytest.mark.parametrize("kind", OF_NO_USE)
def test_a_profile_that_is_of_no_use_is_not_used(kind: str) -> None:
    picture = Image.fromarray(some_picture())
    assert to_srgb(picture, OF_NO_USE[kind]) is picture


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP"])
def test_a_broken_profile_in_a_file_leaves_the_picture(format: str) -> None:
    broken, whole = (encoded(some_picture(), format, profile) for profile in (b"\0" * 300, None))
    np.testing.assert_array_equal(decode_image(broken), decode_image(whole))


def test_a_bomb_for_a_profile_is_not_unpacked() -> None:
    plain = encoded(some_picture(), "PNG", None)
    content = b"name\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(content)) + b"iCCP" + content
    chunk += struct.pack(">I", zlib.crc32(b"iCCP" + content))
    np.testing.assert_array_equal(decode_image(plain[:33] + chunk + plain[33:]), some_picture())


def test_pieces_of_a_profile_that_are_missing_leave_the_picture() -> None:
    piece = b"ICC_PROFILE\0\x02\x02" + made_profile(ADOBE)
    plain = encoded(some_picture(), "JPEG", None)
    segment = b"\xff\xe2" + struct.pack(">H", len(piece) + 2) + piece
    np.testing.assert_array_equal(decode_image(plain[:2] + segment + plain[2:]), decode_image(plain))
