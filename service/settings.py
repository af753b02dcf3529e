"""The service's configuration: environment variables with the prefix PSANET_, read and checked once.

PSANET_MODELS=psanet18_camvid PSANET_PORT=9000 python -m service
python -m service --help          lists every variable with its default
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.options import parse_options
from service.addresses import Network

PREFIX = "PSANET_"
_TOPICS = {
    "host": "Address",
    "models": "Models",
    "processes": "Work",
    "deadline_s": "Time",
    "max_bytes": "Size",
    "label_studio_files": "Label Studio",
    "api_keys_file": "Access",
    "log_level": "Log",
}
"""What the settings from that one on are about, for --help."""


class SettingsError(Exception):
    """The environment does not make a valid configuration; the message names each variable and the mend."""


class Settings(BaseSettings):
    """Everything that can be configured, frozen. Sizes take a number of bytes or a unit (32MiB, 2GB)."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, validate_default=True
    )

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("psanet18_camvid",),
        description="bundle folders, names of bundled models or checkpoint files, with commas or spaces "
        "between; the first is the default",
    )
    checkpoint_options: str = Field(
        "",
        description="what a checkpoint among the models cannot tell of itself, as in every command: "
        "'--psa-type collect --dataset voc2012' say",
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="cpu, cuda:N for one GPU, cuda for every visible one",
    )
    engine: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        "auto", description="what runs the network"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of one engine call; all cores when not set"
    )
    processes: int = Field(
        1, ge=1, le=64, description="worker processes on each device; those on the CPU share its cores"
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        description="requests that one worker process works on at the same time; when not set, twice the "
        "batch, at least 4",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=256,
        description="windows, of all requests, in one engine call; the engine's own choice when not set",
    )
    max_wait_ms: float = Field(
        0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="milliseconds that an engine call which is not full waits for more windows; while a call "
        "runs, the next one fills by itself",
    )
    queue_size: int = Field(
        32, ge=0, le=100_000, description="requests that may wait for a worker; past it 503"
    )
    queue_windows: int = Field(
        1024, ge=1, le=10_000_000, description="windows of all waiting requests together; past it 503"
    )
    deadline_s: float = Field(
        60,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds a request may wait and work; past it 504",
    )
    call_timeout_s: float = Field(
        60,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds of one engine call; past it the worker counts as hung and is replaced",
    )
    drain_s: float = Field(
        30,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds that accepted requests have to finish after SIGTERM",
    )
    receive_timeout_s: float = Field(
        60, gt=0, le=86_400, allow_inf_nan=False, description="seconds a body may take to arrive; past it 408"
    )
    connection_timeout_s: float = Field(
        30,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="seconds a connection may stand still (no request, no reading of the answer)",
    )
    max_bytes: ByteSize = Field(ByteSize(32 * 2**20), ge=1, description="bytes of one body; past it 413")
    max_buffered_bytes: ByteSize = Field(
        ByteSize(256 * 2**20), ge=1, description="bytes of all bodies held at the same time; past it 503"
    )
    max_pixels: int = Field(
        50_000_000, ge=1, description="pixels of one image, checked before decoding; past it 422"
    )
    max_scales: int = Field(8, ge=1, le=64, description="scales of one request")
    min_scale: float = Field(0.25, gt=0, le=10, allow_inf_nan=False, description="smallest scale")
    max_scale: float = Field(3.0, gt=0, le=10, allow_inf_nan=False, description="largest scale")
    max_points: int = Field(16, ge=1, le=1024, description="points of one request for attention")
    memory_budget: ByteSize = Field(
        ByteSize(2 * 2**30),
        ge=2**24,
        description="bytes that the predictions of a worker process may take together, with the attention "
        "maps of models that see whole images: who needs more gets 422, who needs more just now waits",
    )
    label_studio_files: Path | None = Field(
        None,
        description="folder that holds the images of Label Studio's tasks, as docs/label-studio.md says; not "
        "set: tasks have to bring their images along",
    )
    api_keys_file: Path | None = Field(
        None,
        description="file of hashes of API keys, see python -m service.keys --help; not set: no keys",
    )
    rate_per_minute: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="requests a minute of one client (key, else address) in the long run; past it 429; not "
        "set: no limit",
    )
    rate_burst: int = Field(
        10, ge=1, le=1_000_000, description="requests that a client may make at once after a pause"
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="addresses and networks, with commas between, whose X-Forwarded-For names the client; "
        "empty: nobody's",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins of other sites' pages that may use this service, https://maps.example.org say, "
        "with commas between, or *; empty: none",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severity logged"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="auto writes text on a terminal and JSON lines elsewhere"
    )

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        # A path may hold spaces; a list of models is no path.
        return (value,) if Path(value).exists() else tuple(re.split(r"[,\s]+", value.strip(", \t\r\n")))

    @field_validator("models")
    @classmethod
    def _some_model(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("name at least one model, psanet18_camvid say")
        if len(set(value)) < len(value):
            raise ValueError("a model is named twice")
        return value

    @field_validator("trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return re.findall(r"[^,\s]+", value) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#\s]+", origin):
                raise ValueError(f"{origin} is no origin: write https://host or https://host:port, or *")
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _keys(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("there is no such file: make one with python -m service.keys NAME >> FILE")
        return value

    @field_validator("label_studio_files")
    @classmethod
    def _folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("there is no such folder")
        return value

    @field_validator("checkpoint_options")
    @classmethod
    def _parsable(cls, value: str) -> str:
        parse_options(value)
        return value

    @field_validator("log_level", "log_format", "engine", "device", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.max_buffered_bytes < self.max_bytes:
            raise ValueError(f"{PREFIX}MAX_BUFFERED_BYTES has to be at least {PREFIX}MAX_BYTES")
        if not self.min_scale <= 1 <= self.max_scale:
            raise ValueError(f"scale 1 has to lie between {PREFIX}MIN_SCALE and {PREFIX}MAX_SCALE")
        return self


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the configuration from the process's environment.

    environ: looked through for PSANET_ variables that do not exist (a misspelt limit would be no limit);
        the values themselves are read by pydantic-settings from os.environ.
    Raises SettingsError.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    problems = []
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            rest = name.upper().removeprefix(PREFIX)
            close = difflib.get_close_matches(rest, [field.upper() for field in Settings.model_fields], n=1)
            problems.append(
                f"{name}: no such setting" + (f"; did you mean {PREFIX}{close[0]}?" if close else "")
            )
    try:
        settings = Settings()
    except ValidationError as error:
        problems += [_describe(item) for item in error.errors()]
    if problems:
        raise SettingsError("\n".join(problems) + "\n`python -m service --help` lists every setting.")
    return settings


def _describe(item: Any) -> str:
    location = str(item["loc"][0]) if item["loc"] else ""
    text = item["msg"].removeprefix("Value error, ")
    if not location:
        return str(text)
    return (
        f"{PREFIX}{location.upper()}={item['input']}: {text} ({Settings.model_fields[location].description})"
    )


def describe_settings() -> str:
    """Every variable with its meaning and default, for --help."""
    lines = []
    for name, field in Settings.model_fields.items():
        if name in _TOPICS:
            lines.append(f"\n{_TOPICS[name]}")
        default = field.default
        if isinstance(default, ByteSize):
            text = default.human_readable()
        elif isinstance(default, tuple):
            text = ",".join(map(str, default)) or "empty"
        else:
            text = "not set" if default is None else str(default)
        choices = (
            get_args(field.annotation) if getattr(field.annotation, "__origin__", None) is Literal else ()
        )
        meaning = (field.description or "") + (f" ({' | '.join(choices)})" if choices else "")
        lines.append(f"  {PREFIX}{name.upper()}  [{text}]\n      {meaning}")
    return "\n".join(lines)
