"""What tells of the service itself, in the OpenAPI document: models, health, metrics."""

from typing import Any, Final

from service.openapi.problems import ACCESS, NOT_READY, OPEN, Responses, problems


def _example(value: Any, media_type: str = "application/json") -> Responses:
    return {200: {"content": {media_type: {"example": value}}}}


MODELS_EXAMPLE: Final = [
    {
        "name": "psanet18_camvid",
        "default": True,
        "dataset": "camvid",
        "classes": [
            {"id": 0, "name": "sky", "color": [128, 128, 128]},
            {"id": 1, "name": "building", "color": [128, 0, 0]},
        ],
        "crop": [241, 241],
        "base_size": 480,
        "base_short": None,
        "test_mode": "sliding",
        "protocol": "published",
        "precision": "int8",
        "engine": "onnxruntime",
        "device": "cpu",
        "attention": ["collect", "distribute"],
    }
]
"""Referred to, since FastAPI leaves null out of what it is given itself."""
MODELS: Final[Responses] = {
    200: {
        "content": {"application/json": {"examples": {"models": {"$ref": "#/components/examples/models"}}}}
    },
    **problems(ACCESS),
}
ALIVE: Final[Responses] = {**_example({"status": "alive"}), **problems(OPEN)}
READY: Final[Responses] = {**_example({"status": "ready"}), **problems((*NOT_READY, *OPEN))}
METRICS: Final[Responses] = {
    200: {
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": 'psanet_requests_total{code="200",route="/segment"} 12.0\n',
            }
        }
    },
    **problems(ACCESS),
}
