"""Starts the service: python -m service [--help]

Configured by environment variables only. Exit codes: 0 drained after a signal, 1 the address cannot be used,
2 a setting or a model is wrong.
"""

import argparse
import contextlib
import errno
import os
import socket
import sys

from service import memory
from service.settings import Settings, SettingsError, describe_settings, load_settings

_SIGNALS = """
signals:
  TERM, INT   takes no new work (/readyz: 503), finishes what was accepted, ends with 0; a second one hurries
  HUP         reads the API keys again; exchanges models whose files have changed, without a lost request

traces: by the standard variables of OpenTelemetry, OTEL_EXPORTER_OTLP_ENDPOINT say (pip install '.[otel]')
more: docs/service.md
"""


def main() -> int:
    """Run the service until a signal ends it; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m service",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Serves PSANet over HTTP. Takes no arguments: every setting is an environment variable.",
        epilog=f"settings, each with its default:\n{describe_settings()}\n{_SIGNALS}",
    ).parse_args()
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        return _complain(str(error), 2)
    memory.limit_heaps()
    # Only now: a mistake in the settings is told at once, without waiting for what follows to be imported.
    from service.app import create_app
    from service.keys import KeysError
    from service.logs import configure_logging
    from service.server import build_server

    configure_logging(settings.log_level, settings.log_format)
    try:
        listener = _listen(settings)
    except OSError as error:
        return _complain(_explain(error, settings), 1)
    port = listener.getsockname()[1]
    try:
        app = create_app(settings)
    except KeysError as error:
        return _complain(str(error), 2)
    server = build_server(app, settings, announce=lambda: _announce(settings.host, port))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    service = app.state.service
    return 0 if service.failure is None else _complain(service.failure, 2)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # By its protocol asyncio knows that what is written may leave at once: without it, the second half of an
    # answer waits for the client's delayed acknowledgement of the first, 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(False)
    return listener


def _explain(error: OSError, settings: Settings) -> str:
    place = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use by another program: end it, or choose another port with PSANET_PORT."
    if error.errno == errno.EACCES:
        return f"{place} needs more rights: choose a port above 1023 with PSANET_PORT."
    return f"cannot listen on {place}: {error.strerror or error}. Check PSANET_HOST and PSANET_PORT."


def _announce(host: str, port: int) -> None:
    name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}"
    greeting = (
        f"PSANet is ready: {address}/  (API: {address}/docs, Ctrl-C ends it)\n"
        f"  curl -F image=@photo.jpg '{address}/segment?output=overlay' -o overlay.png\n"
    )
    # Unbuffered: where nothing can be written (a full disk, a closed pipe), nothing is left to fail later.
    with contextlib.suppress(OSError):
        if sys.stdout is not None:
            os.write(sys.stdout.fileno(), greeting.encode())


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
