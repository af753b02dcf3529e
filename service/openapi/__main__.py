"""Writes the OpenAPI document of the service to stdout: python -m service.openapi > docs/openapi.json"""

import json

from service.app import create_app
from service.settings import Settings


def main() -> None:
    """Needs no model."""
    print(json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
