"""Writes the function.yaml for CVAT of a model that a running service has: see `function.py`."""

import argparse
import json
import sys
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from service.cvat.function import function_yaml

_TIMEOUT_S = 30


def main(arguments: list[str] | None = None) -> int:
    """Ask the service for its models, and print; exit code 2 where that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m service.cvat",
        description="Writes function.yaml, by which CVAT's nuclio reaches a PSANet service, to stdout.",
    )
    parser.add_argument("service", help="address of the running service, http://127.0.0.1:8000")
    parser.add_argument("--url", help="the address as a container of nuclio sees it; as given if absent")
    parser.add_argument("--model", help="name of one of its models; the first if absent")
    parser.add_argument("--scales", default="1", help="scales to average over, 0.75,1,1.25 say")
    parser.add_argument("--flip", action="store_true", help="average over the mirror image too")
    parser.add_argument("--min-pixels", type=int, default=100, help="leave out areas of fewer pixels")
    parser.add_argument("--key", help="API key, where the service asks for one; it is not written down")
    options = parser.parse_args(arguments)
    if urlsplit(options.service).scheme not in ("http", "https"):
        parser.error(f"{options.service} is no address: write http://127.0.0.1:8000")
    try:
        models = _models(options.service, options.key)
    except (OSError, ValueError) as error:  # no connection, no answer in time, no JSON
        print(f"error: {options.service} does not tell its models: {error}", file=sys.stderr)
        return 2
    chosen = next((model for model in models if options.model in (None, model["name"])), None)
    if chosen is None:
        names = ", ".join(model["name"] for model in models)
        print(f"error: {options.service} has no model {options.model}: it has {names}", file=sys.stderr)
        return 2
    query = urlencode(
        {
            "model": chosen["name"],
            "scales": options.scales,
            "flip": str(options.flip).lower(),
            "min_pixels": options.min_pixels,
        },
        safe=",",
    )
    labels = [each["name"] for each in chosen["classes"]]
    print(function_yaml(chosen["name"], labels, options.url or options.service, query), end="")
    return 0


def _models(service: str, key: str | None) -> list[dict[str, Any]]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = Request(f"{service.rstrip('/')}/models", headers=headers)
    with urlopen(request, timeout=_TIMEOUT_S) as response:  # nosec B310 - http and https alone, see `main`
        models: list[dict[str, Any]] = json.load(response)
    return models


if __name__ == "__main__":
    sys.exit(main())
