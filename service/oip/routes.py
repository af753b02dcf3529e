"""The Open Inference Protocol, version 2, by which clients of Triton and KServe ask: /v2 and what is below.

    tritonclient.http.InferenceServerClient("127.0.0.1:8000").infer("psanet18_camvid", …)      docs/clients.md

Source: the REST part of the Open Inference Protocol, and Triton's extension for binary tensors. Not here:
what a request has to look like (`requests.py`), tensors (`tensors.py`).
"""

import time
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service import documents
from service.errors import Problem
from service.hosted import HostedModel
from service.logs import request_id
from service.oip.requests import INPUT, read_request
from service.openapi import oip as openapi
from service.orders import order_of
from service.tasks import MODEL_VERSION, Answer, Order, TensorTask
from service.uploads import receive_body
from service.work import perform, response_of, service_of

HEAD_BYTES = "Inference-Header-Content-Length"

router = APIRouter(tags=["Open Inference Protocol"])


@router.get("/v2", responses=openapi.SERVER)
async def server() -> dict[str, Any]:
    """What the server is, and which extensions of the protocol it has."""
    return {
        "name": "psanet",
        "version": documents.service_version(),
        "extensions": ["binary_tensor_data"],
    }


@router.head("/v2/health/live", include_in_schema=False)
@router.get("/v2/health/live", responses=openapi.LIVE)
async def live() -> dict[str, bool]:
    """Whether the process lives."""
    return {"live": True}


@router.head("/v2/health/ready", include_in_schema=False)
@router.get("/v2/health/ready", responses=openapi.READY)
async def ready(request: Request) -> dict[str, bool]:
    """Whether inference requests are taken and begun; 503 where not."""
    service_of(request).refuse_unless_ready()
    return {"ready": True}


@router.get(
    "/v2/models/{model}/versions/{version}", responses=openapi.MODEL, openapi_extra=openapi.OF_VERSION
)
@router.get("/v2/models/{model}", responses=openapi.MODEL, openapi_extra=openapi.OF_MODEL)
async def model(request: Request) -> dict[str, Any]:
    """The inputs and outputs of a model. -1 stands for any height or width."""
    hosted = _model_of(request)
    labels = "UINT8" if hosted.info.classes <= 256 else "UINT16"
    return {
        "name": hosted.info.name,
        "versions": [MODEL_VERSION],
        "platform": f"psanet_{hosted.engine}",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, 3]}],
        "outputs": [
            {"name": "labels", "datatype": labels, "shape": [-1, -1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1, -1]},
        ],
    }


@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    responses=openapi.MODEL_READY,
    openapi_extra=openapi.OF_VERSION,
)
@router.get("/v2/models/{model}/ready", responses=openapi.MODEL_READY, openapi_extra=openapi.OF_MODEL)
async def model_ready(request: Request) -> dict[str, Any]:
    """Whether a model takes inference requests; 503 where not."""
    hosted = _model_of(request)
    service_of(request).refuse_unless_ready()
    return {"name": hosted.info.name, "ready": True}


@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    response_class=Response,
    responses=openapi.INFER,
    openapi_extra=openapi.INFER_OF_VERSION,
)
@router.post(
    "/v2/models/{model}/infer",
    response_class=Response,
    responses=openapi.INFER,
    openapi_extra=openapi.INFER_OF_MODEL,
)
async def infer(request: Request) -> Response:
    """Label an image that is sent as a tensor: `image`, UINT8 `[height, width, 3]`, RGB from 0 to 255; or as
    a file's bytes, BYTES `[1]`.

    The answer has `labels`, UINT8 or UINT16 `[height, width]`, and `confidence`, FP32, where `outputs` names
    it. Tensors travel as JSON, or as bytes after the JSON, whose length `Inference-Header-Content-Length`
    then tells, both ways. The parameters of a request are `scales`, `"0.5,1,1.5"` say, `flip`, and
    `binary_data_output`, what outputs are that say nothing themselves.
    """
    service, hosted = service_of(request), _model_of(request)
    started = time.perf_counter()
    try:
        answer = await _infer(request, hosted)
    except Exception as error:
        service.metrics.triton.failed(hosted.info.name, error)
        raise
    service.metrics.triton.answered(hosted.info.name, answer.timings, time.perf_counter() - started)
    response = response_of(answer, hosted.info.name)
    if answer.head_bytes is not None:
        response.headers[HEAD_BYTES] = str(answer.head_bytes)
    return response


async def _infer(request: Request, hosted: HostedModel) -> Answer:
    service = service_of(request)
    service.refuse_work()
    with service.buffers.lease() as book:
        body = await receive_body(request, service.settings, book)
        service.refuse_unless_open()
        task = read_request(body, request.headers.get(HEAD_BYTES), service.settings)
        return await perform(request, await _order_of(hosted, task, body))


async def _order_of(hosted: HostedModel, task: TensorTask, body: bytes) -> Order:
    if task.image_hw is None:
        file = body[slice(*task.span)]
        return await order_of(hosted, replace(task, span=(0, len(file))), file)
    return Order(
        model=hosted.info.name,
        task=task,
        data=body,
        image_hw=task.image_hw,
        windows=hosted.work_of(task, task.image_hw),
        request_id=request_id.get(),
    )


def _model_of(request: Request) -> HostedModel:
    """The model that the path names.

    Raises Problem 404, also for a version that there is not, and 503 where the models are not known yet.
    """
    service = service_of(request)
    if not len(service.models):
        service.refuse_unless_open()
    hosted = service.models.find(request.path_params["model"])
    version = request.path_params.get("version", MODEL_VERSION)
    if version != MODEL_VERSION:
        detail = f"{hosted.info.name} has no version {version!r}: there is {MODEL_VERSION}."
        raise Problem(404, "unknown_version", detail, title="Unknown version")
    return hosted
