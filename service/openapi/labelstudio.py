"""The Label Studio backend in the OpenAPI document."""

from typing import Any, Final

from service.openapi.problems import ACCESS, OPEN, RECEIVING, WORK, Responses, problems

_CONFIG: Final = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Road"/><Label value="Green" predicted_values="tree"/></BrushLabels></View>'
)
_TASK: Final = {"id": 1, "data": {"image": "/data/upload/3/1f2e3d4c-street.jpg"}}
_RESULT: Final = {
    "id": "9f1b3c5d7e",
    "type": "brushlabels",
    "from_name": "brush",
    "to_name": "image",
    "original_width": 6,
    "original_height": 4,
    "image_rotation": 0,
    "score": 0.97,
    "value": {
        "format": "rle",
        "brushlabels": ["Road"],
        "rle": [0, 0, 0, 96, 57, 27, 254, 47, 0, 197, 255, 224],
    },
}
_PREDICTIONS: Final = {
    "model_version": "psanet18_camvid-3b9f0c21",
    "results": [{"model_version": "psanet18_camvid-3b9f0c21", "score": 0.95, "result": [_RESULT]}],
}
_WITH_ERROR: Final = {
    "model_version": "psanet18_camvid-3b9f0c21",
    "results": [
        _PREDICTIONS["results"][0],
        {
            "error": "The image of the task cannot be had: http://example.org/1.jpg is an address.",
            "code": "no_task_image",
        },
    ],
}
_RESULT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "type", "from_name", "to_name", "original_width", "original_height", "value"],
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "brushlabels"},
        "from_name": {"type": "string"},
        "to_name": {"type": "string"},
        "original_width": {"type": "integer"},
        "original_height": {"type": "integer"},
        "image_rotation": {"const": 0},
        "score": {"type": "number", "description": "Mean confidence."},
        "value": {
            "type": "object",
            "required": ["format", "brushlabels", "rle"],
            "properties": {
                "format": {"const": "rle"},
                "brushlabels": {"type": "array", "items": {"type": "string"}},
                "rle": {
                    "type": "array",
                    "description": "Label Studio's run-length encoding of RGBA, which is not COCO's.",
                    "items": {"type": "integer", "minimum": 0, "maximum": 255},
                },
            },
        },
    },
}
PREDICTIONS_SCHEMA: Final[dict[str, Any]] = {
    "title": "LabelStudioPredictions",
    "type": "object",
    "required": ["model_version", "results"],
    "properties": {
        "model_version": {"type": "string"},
        "results": {
            "type": "array",
            "description": "One for each task.",
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "required": ["model_version", "score", "result"],
                        "properties": {
                            "model_version": {"type": "string"},
                            "score": {"type": "number"},
                            "result": {"type": "array", "items": _RESULT_SCHEMA},
                        },
                    },
                    {
                        "type": "object",
                        "required": ["error", "code"],
                        "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
                    },
                ]
            },
        },
    },
}


def _ok(description: str, schema: dict[str, Any], **examples: dict[str, Any]) -> Responses:
    answer = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    return {200: {"description": description, "content": {"application/json": answer}}}


def _body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


_TEXT: Final = {"type": "string"}
HEALTH: Final[Responses] = {
    **_ok(
        "It lives",
        {"type": "object", "required": ["status"], "properties": {"status": _TEXT}},
        up={"status": "UP"},
    ),
    **problems(OPEN),
}
SETUP: Final[Responses] = {
    **_ok(
        "What predictions are filed as",
        {"type": "object", "required": ["model_version"], "properties": {"model_version": _TEXT}},
        version={"model_version": "psanet18_camvid-3b9f0c21"},
    ),
    **problems(
        ("malformed_json", "malformed_request", "bad_label_config", "no_common_label", *RECEIVING, *WORK)
    ),
}
SETUP_BODY: Final = _body(
    {"type": "object", "required": ["schema"], "properties": {"schema": _TEXT, "project": _TEXT}},
    {"project": "3.1764150000", "schema": _CONFIG},
)
PREDICT: Final[Responses] = {
    **_ok(
        "A prediction for each task",
        {"$ref": "#/components/schemas/LabelStudioPredictions"},
        predictions=_PREDICTIONS,
        with_an_error=_WITH_ERROR,
    ),
    **problems(
        (
            *("malformed_json", "malformed_request", "bad_label_config", "no_common_label", "no_task_image"),
            *("unsupported_image", "undecodable_image", *RECEIVING, *WORK),
        )
    ),
}
PREDICT_BODY: Final = _body(
    {
        "type": "object",
        "required": ["tasks", "label_config"],
        "properties": {
            "tasks": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"id": {}, "data": {"type": "object"}},
                },
            },
            "label_config": _TEXT,
            "project": _TEXT,
        },
    },
    {"project": "3.1764150000", "label_config": _CONFIG, "tasks": [_TASK]},
)
WEBHOOK: Final[Responses] = {
    **_ok(
        "Nothing came of it",
        {"type": "object", "required": ["status"], "properties": {"status": _TEXT}},
        ignored={"status": "ignored"},
    ),
    **problems(("malformed_json", "no_training", *RECEIVING, *ACCESS)),
}
WEBHOOK_BODY: Final = _body(
    {"type": "object", "properties": {"action": _TEXT}}, {"action": "ANNOTATION_CREATED"}
)
