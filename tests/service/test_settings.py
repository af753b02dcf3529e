"""Settings come from PSANET_ variables, checked at start, with messages that say what to change."""

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, describe_settings, load_settings


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    import os

    for name in [name for name in os.environ if name.startswith("PSANET_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings(os.environ)


def test_defaults_are_those_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert (settings.host, settings.port, settings.models) == ("127.0.0.1", 8000, ("psanet18_camvid",))
    assert (settings.max_bytes, settings.max_pixels) == (32 * 2**20, 50_000_000)
    assert (settings.max_scales, settings.min_scale, settings.max_scale) == (8, 0.25, 3)


@pytest.mark.parametrize("text", ["a,b", "a b", " a ,\n b,", "a\tb"])
def test_models_are_separated_by_commas_or_spaces(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert load(monkeypatch, PSANET_MODELS=text).models == ("a", "b")


def test_a_path_with_spaces_is_one_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    assert load(monkeypatch, PSANET_MODELS=str(folder)).models == (str(folder),)


def test_checkpoint_options_are_those_of_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "--psa-type collect --crop 465x473"
    assert load(monkeypatch, PSANET_CHECKPOINT_OPTIONS=text).checkpoint_options == text


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, PSANET_MODELS="", PSANET_THREADS="").threads is None


def test_lists_are_separated_by_commas_or_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        PSANET_TRUSTED_PROXIES="10.0.0.0/8, ::1",
        PSANET_CORS_ORIGINS="https://a.example http://b.example:8080",
    )
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert settings.cors_origins == ("https://a.example", "http://b.example:8080")


def test_what_protects_by_asking_who_it_is_is_off_until_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert (settings.api_keys_file, settings.rate_per_minute) == (None, None)
    assert (settings.trusted_proxies, settings.cors_origins) == ((), ())


def test_sizes_may_have_units(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, PSANET_MAX_BYTES="5MiB").max_bytes == 5 * 2**20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PSANET_PORT", "70000"),
        ("PSANET_PORT", "tcp://10.0.0.1:8000"),
        ("PSANET_MODELS", ","),
        ("PSANET_MODELS", "a,a"),
        ("PSANET_CHECKPOINT_OPTIONS", "--psa-type sideways"),
        ("PSANET_CHECKPOINT_OPTIONS", "--sideways"),
        ("PSANET_DEVICE", "gpu"),
        ("PSANET_ENGINE", "magic"),
        ("PSANET_THREADS", "0"),
        ("PSANET_WORKERS", "0"),
        ("PSANET_DEADLINE_S", "nan"),
        ("PSANET_DEADLINE_S", "-1"),
        ("PSANET_MAX_BYTES", "many"),
        ("PSANET_MAX_PIXELS", "0"),
        ("PSANET_MAX_SCALE", "inf"),
        ("PSANET_LOG_LEVEL", "loud"),
        ("PSANET_PROCESSES", "0"),
        ("PSANET_MAX_BATCH", "0"),
        ("PSANET_MAX_WAIT_MS", "-1"),
        ("PSANET_QUEUE_WINDOWS", "0"),
        ("PSANET_CALL_TIMEOUT_S", "0"),
        ("PSANET_API_KEYS_FILE", "/no/such/file"),
        ("PSANET_RATE_PER_MINUTE", "0"),
        ("PSANET_RATE_BURST", "0"),
        ("PSANET_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("PSANET_TRUSTED_PROXIES", "proxy.example"),
        ("PSANET_CORS_ORIGINS", "maps.example"),
        ("PSANET_CORS_ORIGINS", "https://maps.example/path"),
    ],
)
def test_a_bad_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load(monkeypatch, **{name: value})


def test_every_bad_value_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"(?s)PSANET_PORT.*PSANET_WORKERS"):
        load(monkeypatch, PSANET_PORT="x", PSANET_WORKERS="y")


def test_limits_that_contradict_one_another_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="PSANET_MAX_BUFFERED_BYTES"):
        load(monkeypatch, PSANET_MAX_BYTES="2GiB")
    with pytest.raises(SettingsError, match="scale 1"):
        load(monkeypatch, PSANET_MIN_SCALE="2")


def test_a_misspelt_variable_is_refused_with_the_right_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SettingsError, match=r"PSANET_MAX_BYTE: no such setting; did you mean PSANET_MAX_BYTES\?"
    ):
        load(monkeypatch, PSANET_MAX_BYTE="1000")


def test_settings_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(monkeypatch).port = 1  # type: ignore[misc]


def test_the_help_lists_every_variable_with_its_default() -> None:
    text = describe_settings()
    for name in Settings.model_fields:
        assert f"PSANET_{name.upper()}  [" in text
    assert "PSANET_MAX_BYTES  [32.0MiB]" in text
    assert "PSANET_PORT  [8000]" in text
