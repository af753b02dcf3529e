"""The whole OpenAPI document: what FastAPI knows of the routes, and what several of them refer to."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.openapi.attention import ATTENTION_SCHEMA
from service.openapi.cvat import SHAPES_SCHEMA
from service.openapi.house import MODELS_EXAMPLE
from service.openapi.labelstudio import PREDICTIONS_SCHEMA
from service.openapi.oip import MODEL_SCHEMA, REQUEST_SCHEMA, RESPONSE_SCHEMA
from service.openapi.problems import PROBLEM_SCHEMA, examples
from service.openapi.segment import STATISTICS_SCHEMA

SCHEMAS: Final = (
    *(PROBLEM_SCHEMA, STATISTICS_SCHEMA, ATTENTION_SCHEMA, MODEL_SCHEMA, REQUEST_SCHEMA, RESPONSE_SCHEMA),
    *(PREDICTIONS_SCHEMA, SHAPES_SCHEMA),
)
_DESCRIPTION: Final = """\
Send an image, get the class of every pixel. Errors are `application/problem+json`: `detail` says how to \
mend it, `code` is for programs. Answers with 429 and 503 carry `Retry-After`.
"""
_SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key as the password, with any user."},
}


def install(app: FastAPI) -> None:
    """Have the app answer /openapi.json with the document."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(_build(app))
        return made

    app.openapi = document  # type: ignore[method-assign]


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=_DESCRIPTION,
        routes=app.routes,
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    components = document["components"]
    components["schemas"] |= {schema["title"]: schema for schema in SCHEMAS}
    components["examples"] = examples() | {"models": {"value": MODELS_EXAMPLE}}
    components["securitySchemes"] = _SECURITY_SCHEMES
    document["servers"] = [{"url": "/"}]
    # A key is asked for where the service was given some: an empty requirement says that none may do.
    document["security"] = [{}, *({name: []} for name in _SECURITY_SCHEMES)]
    return document
