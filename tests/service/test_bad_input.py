"""Whatever is sent as an image gets a right answer or a clear problem; never a 500, never a wait."""

import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.service.fakes import decoded, encoded, three_colors, tiny_app

IMAGE = three_colors()


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(tiny_app())


def send(client: TestClient, content: bytes, name: str = "photo.jpg") -> Any:
    return client.post("/segment", files={"image": (name, content, "image/jpeg")})


def problem(response: Any) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["title"]
    assert len(document["detail"]) > 20
    assert document["request_id"] == response.headers["x-request-id"]
    return response.status_code, document["code"]


def png_bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_image_is_422_and_not_half_an_answer(client: TestClient, kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    whole = encoded(noise, kind)
    assert send(client, whole).status_code == 200
    assert problem(send(client, whole[: int(len(whole) * kept)])) == (422, "undecodable_image")


def test_a_png_bomb_is_422_at_once(client: TestClient) -> None:
    started = time.monotonic()
    response = send(client, png_bomb(60_000), "bomb.png")
    assert problem(response) == (422, "too_many_pixels")
    assert "50" in response.json()["detail"]
    assert time.monotonic() - started < 1


def test_a_text_file_named_jpg_is_415(client: TestClient) -> None:
    assert problem(send(client, b"Dear network, what do you see in this text?\n" * 20)) == (
        415,
        "unsupported_image",
    )


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\x00",
        b"RIFF\x10\x00\x00\x00WEBP",
        b"\x00",
    ],
)
def test_a_bare_signature_is_a_clear_problem(client: TestClient, content: bytes) -> None:
    assert problem(send(client, content))[0] in (415, 422)


def test_zero_bytes_are_400_in_a_form_and_as_a_body(client: TestClient) -> None:
    assert problem(send(client, b"")) == (400, "empty_body")
    response = client.post("/segment", content=b"", headers={"content-type": "image/png"})
    assert problem(response) == (400, "empty_body")


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(IMAGE).convert("L"),
        Image.fromarray(np.full((60, 90), 40_000, np.uint16)),
        Image.fromarray(IMAGE).convert("LA"),
        Image.fromarray(IMAGE).convert("RGBA"),
        Image.fromarray(IMAGE).convert("P"),
        Image.fromarray(IMAGE).convert("1"),
    ],
    ids=["grey", "16-bit", "grey with alpha", "RGBA", "palette", "bilevel"],
)
def test_other_pixel_types_get_labels_of_the_right_size(client: TestClient, picture: Image.Image) -> None:
    response = send(client, encoded(picture, "PNG"), "picture.png")
    assert response.status_code == 200
    assert decoded(response.content).shape == (60, 90)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")]
)
def test_colors_survive_the_conversion(client: TestClient, mode: str, kind: str) -> None:
    content = encoded(Image.fromarray(IMAGE).convert(mode), kind)
    labels = decoded(send(client, content).content)
    assert labels[30, [15, 45, 75]].tolist() == [1, 2, 3]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(client: TestClient, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    labels = decoded(send(client, encoded(IMAGE, "JPEG", exif=exif, quality=95)).content)
    assert labels.shape == ((60, 90) if orientation < 5 else (90, 60))
    along = labels[30] if orientation < 5 else labels[:, 30]
    order = [1, 2, 3] if orientation in (1, 4, 5, 6) else [3, 2, 1]
    assert along[[15, 45, 75]].tolist() == order


@pytest.mark.parametrize("hw", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_extreme_shapes_are_labelled(client: TestClient, hw: tuple[int, int]) -> None:
    response = send(client, encoded(np.full((*hw, 3), 200, np.uint8)))
    assert response.status_code == 200
    assert decoded(response.content).shape == hw


def test_bytes_of_every_kind_never_give_a_500(client: TestClient) -> None:
    random = np.random.default_rng(1)
    whole = [encoded(IMAGE, kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")]
    for _ in range(80):
        content = bytearray(whole[random.integers(len(whole))])
        for _ in range(random.integers(1, 12)):
            content[random.integers(len(content))] = random.integers(256)
        response = client.post("/segment", content=bytes(content), headers={"content-type": "image/jpeg"})
        if response.status_code != 200:
            assert problem(response)[0] in (415, 422), content


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_frames_the_first_is_labelled_and_the_others_are_not_decoded(
    client: TestClient, kind: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 60, 90, 3)).astype(np.uint8)
    others = [Image.fromarray(frame) for frame in noise]
    content = encoded(Image.fromarray(IMAGE), kind, save_all=True, append_images=others)
    started = time.monotonic()
    response = send(client, content)
    assert decoded(response.content)[30, [15, 45, 75]].tolist() == [1, 2, 3]
    assert time.monotonic() - started < 2


def test_what_a_format_cannot_hold_is_422(client: TestClient) -> None:
    content = encoded(np.zeros((1, 20_000, 3), np.uint8))
    response = client.post(
        "/segment?output=overlay&format=webp", content=content, headers={"content-type": "image/png"}
    )
    assert problem(response) == (422, "bad_parameter")


def test_the_pixel_limit_can_be_set() -> None:
    client = TestClient(tiny_app(max_pixels=60 * 90 - 1))
    assert problem(send(client, encoded(IMAGE))) == (422, "too_many_pixels")
    assert (
        TestClient(tiny_app(max_pixels=60 * 90)).post("/segment", content=encoded(IMAGE)).status_code == 200
    )
