"""An ML backend for Label Studio, which asks /health, /setup and /predict below the address it was given, and
tells /webhook what labellers do.

    Label Studio → project → Settings → Model → Connect Model, http://127.0.0.1:8000      docs/label-studio.md

Not here: labelling interfaces (`config.py`), tasks' images (`files.py`), brushes (`brush.py`).
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import Problem, problem_of
from service.hosted import HostedModel
from service.json_bodies import read_object
from service.labelstudio.config import LabelConfig, read_label_config
from service.labelstudio.files import read_task_image
from service.openapi import labelstudio as openapi
from service.orders import order_of
from service.tasks import BrushTask
from service.uploads import receive_body
from service.work import client_leaves, perform, service_of

router = APIRouter(tags=["Label Studio"])

_AT_ONCE = 4
_MOST_TASKS = 1000
_OF_ONE_TASK = frozenset({400, 413, 415, 422})
"""Problems that the image of one task can be, and others need not suffer for."""


@router.head("/health", include_in_schema=False)
@router.get("/health", responses=openapi.HEALTH)
async def health() -> dict[str, str]:
    """Whether the process lives. Label Studio asks it while a model is connected."""
    return {"status": "UP"}


@router.post("/setup", responses=openapi.SETUP, openapi_extra=openapi.SETUP_BODY)
async def setup(request: Request) -> dict[str, str]:
    """Look at a project's labelling interface, and say what predictions are filed as.

    The model has to be one that is served, and one of the project's labels a class of it: 422 where not.
    """
    service = service_of(request)
    service.refuse_unless_open()
    with service.buffers.lease() as book:
        document = read_object(await receive_body(request, service.settings, book))
    config, hosted = _config_of(request, document, "schema")
    config.match(hosted.info)
    return {"model_version": _version_of(hosted)}


@router.post(
    "/predict", response_class=Response, responses=openapi.PREDICT, openapi_extra=openapi.PREDICT_BODY
)
async def predict(request: Request) -> Response:
    """Paint the labels of a project over the images of its tasks.

    A task whose image cannot be used has an `error` in place of a `result`; Label Studio logs it and goes on.
    Where that is so of every task, the answer is the first one's problem.
    """
    service = service_of(request)
    service.refuse_work()
    with service.buffers.lease() as book:
        document = read_object(await receive_body(request, service.settings, book))
        service.refuse_unless_open()
        config, hosted = _config_of(request, document, "label_config")
        task = BrushTask(
            scales=config.scales,
            flip=config.flip,
            labels=config.match(hosted.info),
            from_name=config.from_name,
            to_name=config.to_name,
            version=_version_of(hosted),
            max_pixels=service.settings.max_pixels,
        )
        images = [_image_of(each, config.key) for each in _tasks_of(document)]
        del document  # of small values it is 28 times its text, and the work takes long
        outcomes = await _predict_all(request, hosted, task, images, book)
    problems = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
    if problems and len(problems) == len(outcomes):
        raise problems[0]
    texts = [_failed(outcome) if isinstance(outcome, Problem) else outcome for outcome in outcomes]
    head = json.dumps({"model_version": task.version}, ensure_ascii=False).encode()
    content = b'%b,"results":[%b]}' % (head[:-1], b",".join(texts))
    return Response(content, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.post("/webhook", responses=openapi.WEBHOOK, openapi_extra=openapi.WEBHOOK_BODY)
async def webhook(request: Request) -> dict[str, str]:
    """Take note of nothing: Label Studio tells every model that is connected what labellers do.

    Somebody who presses "Start training" is told that this service does not train: 422.
    """
    service = service_of(request)
    with service.buffers.lease() as book:
        document = read_object(await receive_body(request, service.settings, book))
    if document.get("action") == "START_TRAINING":
        detail = (
            "This service does not train: export the annotations, and see python -m training.train --help."
        )
        raise Problem(422, "no_training", detail, title="This service does not train")
    return {"status": "ignored"}


async def _predict_all(
    request: Request,
    hosted: HostedModel,
    task: BrushTask,
    images: list[str | Problem],
    book: Callable[[int], None],
) -> list[bytes | Problem]:
    """A prediction for each image, some at a time, so that their windows share engine calls.

    book: called with the size of each, since all are held until the last is there.
    """
    turns = asyncio.Semaphore(_AT_ONCE)
    leaving = asyncio.ensure_future(client_leaves(request))

    async def one(image: str | Problem) -> bytes | Problem:
        async with turns:
            outcome = await _predict_one(request, hosted, task, image, leaving)
        if not isinstance(outcome, Problem):
            book(len(outcome))
        return outcome

    try:
        async with asyncio.TaskGroup() as group:
            work = [group.create_task(one(image)) for image in images]
    except ExceptionGroup as errors:  # what is wrong with the service is wrong for all: one answer says it
        raise _first(errors) from None
    finally:
        leaving.cancel()
    return [each.result() for each in work]


async def _predict_one(
    request: Request,
    hosted: HostedModel,
    task: BrushTask,
    image: str | Problem,
    leaving: "asyncio.Future[None]",
) -> bytes | Problem:
    service = service_of(request)
    folder, max_bytes = service.settings.label_studio_files, int(service.settings.max_bytes)
    try:
        if isinstance(image, Problem):
            return image
        with service.buffers.lease() as book:
            data = await asyncio.to_thread(read_task_image, image, folder, max_bytes)
            book(len(data))
            answer = await perform(request, await order_of(hosted, task, data), leaving)
    except Exception as error:
        problem = problem_of(error)
        if problem.status not in _OF_ONE_TASK:
            raise
        return problem
    return answer.content


def _config_of(request: Request, document: dict[str, Any], key: str) -> tuple[LabelConfig, HostedModel]:
    """The labelling interface in a request, and the model that it wants."""
    text = document.get(key)
    if not isinstance(text, str):
        raise _malformed(f"{key} has to hold the labelling interface")
    service = service_of(request)
    config = read_label_config(text, service.settings)
    return config, service.models.find(config.model)


def _tasks_of(document: dict[str, Any]) -> list[Any]:
    tasks = document.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise _malformed("tasks has to hold the tasks to predict")
    if len(tasks) > _MOST_TASKS:
        raise _malformed(f"it holds {len(tasks)} tasks, at most {_MOST_TASKS} are taken")
    return tasks


def _image_of(task: Any, key: str) -> str | Problem:
    """What stands in a task for its image."""
    data = task.get("data") if isinstance(task, dict) else None
    image = data.get(key) if isinstance(data, dict) else None
    if isinstance(image, str) and image:
        return image
    detail = f"The task has no image: the labelling interface looks for it in data.{key[:64]}."
    return Problem(422, "no_task_image", detail, title="No image")


def _version_of(hosted: HostedModel) -> str:
    """The model's name, and of which weights it is: others are another version, to be predicted anew."""
    source = hosted.info.source_sha256
    return hosted.info.name if source is None else f"{hosted.info.name}-{source[:8]}"


def _failed(problem: Problem) -> bytes:
    text = json.dumps({"error": problem.detail, "code": problem.code}, ensure_ascii=False)
    return text.encode(errors="replace")


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def _malformed(reason: str) -> Problem:
    detail = f"This is no request of Label Studio's: {reason}."
    return Problem(400, "malformed_request", detail, title="Malformed request")
