"""Log lines: readable ones on a terminal, JSON elsewhere, each with the id of its request."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""Of the trace that the request belongs to, where there is one."""
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being handled, also inside its worker thread."""

_FIELDS = ("method", "path", "route", "status", "duration_ms", "code", "client")


def configure_logging(level: str, style: Literal["auto", "text", "json"]) -> None:
    """Send everything to stderr. For entry points only."""
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(
        logging.ERROR
    )  # it warns of every odd byte that a client sends
    logging.getLogger("PIL").setLevel(logging.ERROR)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id and a record's `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (identity := request_id.get()) is not None:
            document["request_id"] = identity
        if (trace := trace_id.get()) is not None:
            document["trace_id"] = trace
        document |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """For people: time, level, message, and the request's id at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Write the line itself, to which `format` adds a traceback."""
        identity = request_id.get()
        return super().formatMessage(record) + (f"  [{identity}]" if identity else "")
