"""What CVAT's serverless functions do, over HTTP: POST /cvat takes what CVAT sends one and answers so.

    {"image": "<base64>", "threshold": 0.5}
    [{"confidence": "0.93", "label": "road", "type": "mask", "points": [x, y, …], "mask": [0, 1, …]}]

CVAT reaches functions through nuclio: docs/cvat/ has one that hands on to here, docs/cvat.md says how. Not
here: the areas (`shapes.py`), the function's list of classes (`function.py`).
"""

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from service.errors import Problem
from service.json_bodies import read_object
from service.openapi import cvat as openapi
from service.orders import order_of
from service.parameters import LabellingQuery, bad_parameter, read_scales
from service.tasks import Shape, ShapesTask
from service.uploads import receive_body
from service.work import perform, refuse_repeated, response_of, service_of

router = APIRouter(tags=["CVAT"])


class CvatQuery(LabellingQuery):
    """What may stand after `/cvat?`."""

    type: Shape = Field("mask", description="What an area is answered as.")
    min_pixels: int = Field(
        100, ge=1, le=10**9, description="Areas of fewer pixels are left out: specks that somebody deletes."
    )


@router.post("/cvat", response_class=Response, responses=openapi.SHAPES, openapi_extra=openapi.SHAPES_BODY)
async def cvat(request: Request, query: Annotated[CvatQuery, Query()]) -> Response:
    """Outline the connected areas of each class, in the form of CVAT's serverless functions.

    `mask` holds 0 and 1 of the box around an area, row by row, then the box: left, top, right, bottom.
    `points` is the outline, which CVAT takes where masks are to be polygons.
    """
    service = service_of(request)
    refuse_repeated(request)
    service.refuse_work()
    hosted = service.models.find(query.model)
    scales = read_scales(query.scales, service.settings)
    with service.buffers.lease() as book:
        body = await receive_body(request, service.settings, book)
        service.refuse_unless_open()
        document = read_object(body)
        task = ShapesTask(
            scales=scales,
            flip=query.flip,
            shape=query.type,
            min_pixels=query.min_pixels,
            threshold=_threshold(document.get("threshold")),
            max_pixels=service.settings.max_pixels,
        )
        data = await asyncio.to_thread(_image, document.get("image"))
        book(len(data))
        del document  # of small values it is 28 times its text, and the work takes long
        answer = await perform(request, await order_of(hosted, task, data))
    return response_of(answer, hosted.info.name)


def _image(value: Any) -> bytes:
    if isinstance(value, str) and value:
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            pass
    detail = 'The body has no image: send {"image": "…"}, the file\'s bytes in base64.'
    raise Problem(400, "no_image", detail, title="No image")


def _threshold(value: Any) -> float:
    """CVAT leaves it out, or sends what the user has set."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise bad_parameter("threshold", "a number between 0 and 1")
    return float(value)
