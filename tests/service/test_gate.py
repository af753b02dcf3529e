"""Keys and rate limits: off until configured, then in front of everything that is not listed as open."""

import hashlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from service import keys as keys_module
from service.addresses import UNKNOWN, address_of, bucket_of
from service.gate import is_open
from service.keys import Keys, KeysError, make_key, parse_keys, presented_key
from service.ratelimit import RateLimit
from service.settings import Settings
from tests.service.fakes import encoded, live, metric, three_colors, tiny_app

FILE = encoded(three_colors())
RAW = {"content-type": "application/octet-stream"}


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("# keys\n\n" + line("alice", "first") + line("bob", "second"))
    return path


def asked(client: TestClient, **headers: str) -> Any:
    return client.post("/segment", content=FILE, headers=RAW | headers)


def test_nobody_needs_a_key_until_there_are_some() -> None:
    client = TestClient(tiny_app())
    assert asked(client).status_code == 200
    assert all(asked(client).status_code == 200 for _ in range(30))


@pytest.mark.parametrize(
    "header",
    [
        {"authorization": "Bearer first"},
        {"authorization": "bearer second"},
        {"x-api-key": "first"},
        {"authorization": "Basic Zmlyc3Q6", "x-api-key": "second"},
    ],
)
def test_a_key_lets_in(file: Path, header: dict[str, str]) -> None:
    assert asked(TestClient(tiny_app(api_keys_file=file)), **header).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "first"},
        {"x-api-key": "First"},
        {"x-api-key": hashlib.sha256(b"first").hexdigest()},
        {"x-api-key": "ü" * 20},
        {"x-api-key": "x" * 5000},
    ],
)
def test_without_a_right_key_it_is_401_before_the_body_is_read(file: Path, header: dict[str, str]) -> None:
    client = TestClient(tiny_app(api_keys_file=file))
    encodable = {name: text.encode("utf-8") for name, text in header.items()}
    response = client.post("/segment", content=FILE, headers={**RAW, **encodable})  # type: ignore[dict-item]
    assert (response.status_code, response.json()["code"]) == (401, "bad_key")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    insider = TestClient(client.app, headers={"x-api-key": "first"})
    assert metric(insider, "psanet_problems_total", code="bad_key") == 1


def test_health_and_pages_are_open_and_everything_else_is_closed(file: Path) -> None:
    client = TestClient(tiny_app(api_keys_file=file))
    for path in (
        "/healthz",
        "/readyz",
        "/",
        "/docs",
        "/openapi.json",
        "/page/app.js",
        "/swagger/swagger-ui.css",
    ):
        assert client.get(path).status_code == 200, path
        assert is_open(path)
    for path in ("/models", "/metrics", "/segment", "/anything/else", "/page", "/v2"):
        assert client.get(path).status_code == 401, path
    assert client.get("/models", headers={"X-API-Key": "first"}).status_code == 200


def test_keys_are_exchanged_while_the_service_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_LOOK_EVERY_S", 0.0)
    client = TestClient(tiny_app(api_keys_file=file))
    assert asked(client, **{"x-api-key": "third"}).status_code == 401
    file.write_text(
        line("alice", "first") + line("alice", "third") + "# bob has left, and this is longer\n" * 3
    )
    assert [asked(client, **{"x-api-key": key}).status_code for key in ("first", "third", "second")] == [
        200,
        200,
        401,
    ]


def test_a_broken_file_leaves_the_keys_in_force_and_a_line_in_the_log(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(file)
    for content in ("alice:first\n", ""):
        file.write_text(content)
        with caplog.at_level(logging.ERROR):
            keys.reload()
        assert keys.name_of("first") == "alice"
        assert "service.keys" in caplog.text
        assert "first" not in caplog.text.replace(str(file), "")
    os.unlink(file)
    keys.reload()
    assert keys.name_of("second") == "bob"


@pytest.mark.parametrize(
    "text", ["alice", "alice:first", "al ice:" + "0" * 64, "alice:" + "0" * 63, "# nothing"]
)
def test_a_file_that_holds_no_keys_is_refused_with_the_mend(text: str) -> None:
    with pytest.raises(KeysError, match=r"python -m service\.keys"):
        parse_keys(text, "keys.txt")


def test_a_key_that_is_made_is_long_and_fits_its_line() -> None:
    key, entry = make_key("carol@example.org")
    other, _ = make_key("carol@example.org")
    assert key != other
    assert re.fullmatch(r"psanet_[\w-]{43}", key)
    (name,) = parse_keys(entry, "keys.txt").values()
    assert name == "carol@example.org"
    with pytest.raises(KeysError, match="no name"):
        make_key("carol:admin")


def test_the_command_writes_the_line_to_stdout_and_the_key_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["service.keys", "dave"])
    assert keys_module.main() == 0
    out, err = capsys.readouterr()
    key = err.split()[-1]
    assert out == line("dave", key)
    monkeypatch.setattr("sys.argv", ["service.keys", "da ve"])
    assert keys_module.main() == 2


def test_a_key_that_is_no_text_is_none() -> None:
    assert presented_key({"x-api-key": "  "}) is None
    assert presented_key({"authorization": "Bearer   key  "}) == "key"


def test_who_asks_too_often_gets_429_with_the_time_to_wait() -> None:
    client = TestClient(tiny_app(rate_per_minute=30, rate_burst=2))
    assert [asked(client).status_code for _ in range(3)] == [200, 200, 429]
    response = asked(client)
    assert response.json()["code"] == "rate_limited"
    assert response.headers["retry-after"] in ("1", "2")
    assert metric(client, "psanet_problems_total", code="rate_limited") == 2
    for path in ("/", "/healthz", "/page/app.js"):
        assert client.get(path).status_code == 200


def test_with_keys_each_key_has_its_own_limit_and_guessing_counts_for_the_address(file: Path) -> None:
    client = TestClient(tiny_app(api_keys_file=file, rate_per_minute=1, rate_burst=1))
    for key in ("first", "second"):
        assert [asked(client, **{"x-api-key": key}).status_code for _ in range(2)] == [200, 429]
    assert [asked(client, **{"x-api-key": "guess"}).status_code for _ in range(2)] == [401, 429]


def test_a_bucket_fills_again_with_time_but_never_above_its_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = RateLimit(60, 3)
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 1]
    now[0] += 0.5
    assert limit.take("a") == pytest.approx(0.5)
    now[0] += 0.5
    assert limit.take("a") == 0
    now[0] += 3600
    assert [limit.take("a") > 0 for _ in range(5)] == [False, False, False, True, True]
    assert limit.take("b") == 0


def test_the_memory_of_rate_limits_is_bounded() -> None:
    limit = RateLimit(1, 1, most_clients=50)
    for number in range(1000):
        assert limit.take(f"client {number}") == 0
    assert len(limit) == 50
    assert limit.take("client 999") > 0


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", text.encode()) for text in forwarded]
    return {"type": "http", "client": (peer, 1234) if peer else None, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.2.3.4, 198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.2.3.4, 198.51.100.1, 10.9.9.9",), "198.51.100.1"),
        ("10.0.0.1", ("1.2.3.4", "198.51.100.1:5000"), "198.51.100.1"),
        ("10.0.0.1", ("[2001:db8::7]:443",), "2001:db8::7"),
        ("10.0.0.1", ("1.2.3.4, nonsense",), "10.0.0.1"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("10.0.0.2, 10.0.0.3",), "10.0.0.2"),
        ("::ffff:10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("fe80::1%eth0", ("198.51.100.1",), "fe80::1"),
        (None, ("198.51.100.1",), UNKNOWN),
        ("testclient", ("198.51.100.1",), UNKNOWN),
    ],
)
def test_only_trusted_proxies_say_who_the_client_is(
    peer: str | None, forwarded: tuple[str, ...], expected: str
) -> None:
    trusted = Settings(trusted_proxies="10.0.0.0/8").trusted_proxies  # type: ignore[arg-type]
    assert address_of(scope(peer, *forwarded), trusted) == expected


def test_without_trusted_proxies_nothing_that_a_client_sends_counts() -> None:
    for peer in ("127.0.0.1", "10.0.0.1"):
        assert address_of(scope(peer, "198.51.100.1"), ()) == peer


def test_a_client_cannot_escape_its_limit_by_a_header_of_a_proxy() -> None:
    """Over a real connection from 127.0.0.1, which uvicorn itself would trust."""
    with live(tiny_app(rate_per_minute=1, rate_burst=1)) as url:
        statuses = [
            httpx2.get(f"{url}/models", headers={"X-Forwarded-For": f"198.51.100.{number}"}).status_code
            for number in range(3)
        ]
    assert statuses == [200, 429, 429]


def test_a_user_of_ipv6_is_one_client_whatever_his_last_64_bits() -> None:
    assert bucket_of("2001:db8::1") == bucket_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert bucket_of("198.51.100.1") == "198.51.100.1"
    assert bucket_of(UNKNOWN) == UNKNOWN


def test_other_sites_that_were_named_get_permission_and_no_others() -> None:
    client = TestClient(
        tiny_app(cors_origins="https://maps.example, http://localhost:5173", rate_per_minute=1)
    )
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, allowed in (("https://maps.example", True), ("https://evil.example", False)):
        response = client.options("/segment", headers={"Origin": origin, **preflight})
        assert (response.headers.get("access-control-allow-origin") == origin) == allowed
        answer = asked(client, origin=origin)
        assert answer.status_code == 200
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
        assert "access-control-allow-credentials" not in answer.headers


def test_a_refusal_can_be_read_by_sites_that_were_named(file: Path) -> None:
    client = TestClient(tiny_app(cors_origins="*", api_keys_file=file))
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    allowed = client.options("/segment", headers={"Origin": "https://a.example", **preflight})
    assert allowed.status_code == 200, "browsers send no key with a preflight"
    refused = asked(client, origin="https://a.example")
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
