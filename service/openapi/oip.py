"""The Open Inference Protocol in the OpenAPI document."""

from typing import Any, Final

from service.openapi.problems import ACCESS, IMAGE, NOT_READY, OPEN, RECEIVING, WORK, Responses, problems
from service.openapi.segment import HEADERS

_HEAD_BYTES: Final = {
    "description": "How many bytes of JSON there are, before the bytes of tensors.",
    "schema": {"type": "integer"},
}
_PATH: Final = {"in": "path", "required": True, "schema": {"type": "string"}}
_MODEL: Final = {"name": "model", "description": "Name of a model from `/models`.", **_PATH}
_VERSION: Final = {"name": "version", "description": "Every model has version 1.", **_PATH}
OF_MODEL: Final[dict[str, Any]] = {"parameters": [_MODEL]}
OF_VERSION: Final[dict[str, Any]] = {"parameters": [_MODEL, _VERSION]}

_TENSOR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "enum": ["UINT8", "UINT16", "FP32", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
    },
}


_SENT_TENSOR: Final[dict[str, Any]] = {
    **_TENSOR,
    "properties": {
        **_TENSOR["properties"],
        "data": {
            "type": "array",
            "items": {},
            "description": "Its values as JSON, row by row, flat or nested.",
        },
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data_size": {"type": "integer", "description": "Or how many bytes it has."}
            },
        },
    },
}
MODEL_SCHEMA: Final[dict[str, Any]] = {
    "title": "OipModel",
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
REQUEST_SCHEMA: Final[dict[str, Any]] = {
    "title": "OipRequest",
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "properties": {
                "scales": {"type": "string", "examples": ["0.5,1,1.5"]},
                "flip": {"type": "boolean"},
                "binary_data_output": {"type": "boolean"},
            },
        },
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _SENT_TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "enum": ["labels", "confidence"]},
                    "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                },
            },
        },
    },
}
RESPONSE_SCHEMA: Final[dict[str, Any]] = {
    "title": "OipResponse",
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _SENT_TENSOR},
    },
}


def _ok(description: str, schema: dict[str, Any], **examples: dict[str, Any]) -> Responses:
    answer = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    return {200: {"description": description, "content": {"application/json": answer}}}


def _flag(name: str) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: {"type": "boolean"}}}


_SERVER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "extensions": {"type": "array", "items": {"type": "string"}},
    },
}
SERVER: Final[Responses] = {
    **_ok(
        "The server",
        _SERVER_SCHEMA,
        server={"name": "psanet", "version": "0.1.0", "extensions": ["binary_tensor_data"]},
    ),
    **problems(ACCESS, oip=True),
}
LIVE: Final[Responses] = {
    **_ok("It lives", _flag("live"), live={"live": True}),
    **problems(OPEN, oip=True),
}
READY: Final[Responses] = {
    **_ok("Ready", _flag("ready"), ready={"ready": True}),
    **problems((*OPEN, *NOT_READY), oip=True),
}
_OF_MODEL_PROBLEMS: Final = problems(("unknown_model", "unknown_version", *NOT_READY, *ACCESS), oip=True)
MODEL: Final[Responses] = {
    **_ok(
        "The model",
        {"$ref": "#/components/schemas/OipModel"},
        model={
            "name": "psanet18_camvid",
            "versions": ["1"],
            "platform": "psanet_onnxruntime",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}],
            "outputs": [
                {"name": "labels", "datatype": "UINT8", "shape": [-1, -1]},
                {"name": "confidence", "datatype": "FP32", "shape": [-1, -1]},
            ],
        },
    ),
    **_OF_MODEL_PROBLEMS,
}
MODEL_READY: Final[Responses] = {
    **_ok(
        "Ready",
        {**_flag("ready"), "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}}},
        ready={"name": "psanet18_camvid", "ready": True},
    ),
    **_OF_MODEL_PROBLEMS,
}

_INFER = _ok(
    "The tensors that were asked for. As bytes they follow the JSON, in its order.",
    {"$ref": "#/components/schemas/OipResponse"},
    labels={
        "model_name": "psanet18_camvid",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "labels", "datatype": "UINT8", "shape": [1, 2], "data": [3, 3]}],
    },
    confidence={
        "model_name": "psanet18_camvid",
        "model_version": "1",
        "outputs": [
            {"name": "labels", "datatype": "UINT8", "shape": [1, 2], "data": [3, 3]},
            {"name": "confidence", "datatype": "FP32", "shape": [1, 2], "data": [0.971, 0.964]},
        ],
    },
)[200]
INFER: Final[Responses] = {
    200: {
        **_INFER,
        "headers": {**HEADERS, "Inference-Header-Content-Length": _HEAD_BYTES},
        "content": {
            **_INFER["content"],
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    **problems(
        ("malformed_request", "malformed_json", "unknown_version", *IMAGE, *RECEIVING, *WORK),
        oip=True,
    ),
}
_REQUEST_EXAMPLES: Final = {
    "json": {
        "value": {
            "id": "7",
            "parameters": {"scales": "0.5,1,1.5", "flip": True},
            "inputs": [
                {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3], "data": [90, 91, 88, 92, 90, 87]}
            ],
            "outputs": [{"name": "labels"}],
        }
    },
    "binary": {
        "summary": "The JSON before the bytes of the tensor, with Inference-Header-Content-Length",
        "value": {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "UINT8",
                    "shape": [360, 480, 3],
                    "parameters": {"binary_data_size": 518400},
                }
            ],
            "outputs": [
                {"name": "labels", "parameters": {"binary_data": True}},
                {"name": "confidence", "parameters": {"binary_data": True}},
            ],
        },
    },
    "file": {
        "summary": "The JSON before four bytes, the file's length, and the file, with the same header",
        "value": {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "BYTES",
                    "shape": [1],
                    "parameters": {"binary_data_size": 71204},
                }
            ]
        },
    },
}
_INFER_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/OipRequest"},
                "examples": _REQUEST_EXAMPLES,
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_HEAD_BYTES_PARAMETER: Final[dict[str, Any]] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    **_HEAD_BYTES,
}
INFER_OF_MODEL: Final = {"parameters": [_MODEL, _HEAD_BYTES_PARAMETER], **_INFER_BODY}
INFER_OF_VERSION: Final = {"parameters": [_MODEL, _VERSION, _HEAD_BYTES_PARAMETER], **_INFER_BODY}
