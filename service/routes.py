"""The service's own handlers. Each checks, awaits and answers; the work is done by workers (`work.py`).

Not here: other people's interfaces (`oip/`, `labelstudio/`, `cvat/`).
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.responses import Response

from service.hosted import HostedModel
from service.openapi import house
from service.openapi.attention import ATTENTION
from service.openapi.segment import IMAGE_BODY, SEGMENT
from service.parameters import AttentionQuery, SegmentQuery, check_attention_query, check_query
from service.work import refuse_repeated, service_of, work_on_image

router = APIRouter()


class ClassDocument(BaseModel):
    """A class that a model knows."""

    id: int
    name: str
    color: tuple[int, int, int]


class ModelDocument(BaseModel):
    """A model that is served. `crop` is (height, width) in pixels; `base_size` the long side at scale 1,
    `base_short` what the short side may not exceed then; `test_mode` says whether images are seen in windows
    of the crop or whole, `protocol` whose test protocol they are labelled by; `attention` what `/attention`
    can tell of, perhaps nothing."""

    name: str
    default: bool
    dataset: str
    classes: list[ClassDocument]
    crop: tuple[int, int]
    base_size: int
    base_short: int | None
    test_mode: str
    protocol: str
    precision: str
    engine: str
    device: str
    attention: list[str]


class StatusDocument(BaseModel):
    """How the service is."""

    status: str


@router.post("/segment", response_class=Response, responses=SEGMENT, openapi_extra=IMAGE_BODY)
async def segment(request: Request, query: Annotated[SegmentQuery, Query()]) -> Response:
    """Label every pixel of an image.

    Send the image as the field `image` of a form, or as the body itself:

        curl -F image=@photo.jpg 'http://127.0.0.1:8000/segment?output=overlay' -o overlay.png
        curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg \\
          http://127.0.0.1:8000/segment -o labels.png
    """
    service = service_of(request)
    refuse_repeated(request)
    service.refuse_work()
    model = service.models.find(query.model)
    return await work_on_image(request, model, check_query(query, service.settings, model.info))


@router.post("/attention", response_class=Response, responses=ATTENTION, openapi_extra=IMAGE_BODY)
async def attention(request: Request, query: Annotated[AttentionQuery, Query()]) -> Response:
    """Tell what points of an image collect from the rest of it, and what they distribute to it.

    Send the image as to /segment, and the points as pixels; models with a non-empty `attention` in /models
    can tell:

        curl -F image=@photo.jpg 'http://127.0.0.1:8000/attention?x=240&y=120'
        curl -F image=@photo.jpg \\
          'http://127.0.0.1:8000/attention?x=240&y=120&output=overlay&direction=distribute' -o heat.png
    """
    service = service_of(request)
    refuse_repeated(request)
    service.refuse_work()
    model = service.models.find(query.model)
    return await work_on_image(request, model, check_attention_query(query, service.settings, model))


@router.get("/models", responses=house.MODELS)
async def models(request: Request) -> list[ModelDocument]:
    """The models that are served, the default first."""
    return [_describe(model, index == 0) for index, model in enumerate(service_of(request).models)]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses=house.ALIVE)
async def healthz() -> StatusDocument:
    """Whether the process lives. It does, also while it loads models or drains."""
    return StatusDocument(status="alive")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=house.READY)
async def readyz(request: Request) -> StatusDocument:
    """Whether requests for work are taken and begun: 503 while models are loaded, while no worker lives, and
    once the service shuts down."""
    service_of(request).refuse_unless_ready()
    return StatusDocument(status="ready")


@router.get("/metrics", response_class=Response, responses=house.METRICS)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(service_of(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _describe(model: HostedModel, default: bool) -> ModelDocument:
    info = model.info
    rows = zip(info.class_names, info.palette, strict=True)
    return ModelDocument(
        name=info.name,
        default=default,
        dataset=info.dataset,
        classes=[ClassDocument(id=i, name=name, color=color) for i, (name, color) in enumerate(rows)],
        crop=info.crop_hw,
        base_size=info.base_size,
        base_short=info.base_short,
        test_mode=info.test_mode,
        protocol=info.protocol,
        precision=info.precision,
        engine=model.engine,
        device=model.device,
        attention=list(model.directions or ()),
    )
