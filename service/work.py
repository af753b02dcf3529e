"""What every request for work goes through once it is an order: queue, worker, counters, answer.

Not here: what is asked (`routes.py`; `oip/`, `labelstudio/`, `cvat/`).
"""

import asyncio
from collections import Counter
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response

from service.hosted import HostedModel
from service.orders import order_of
from service.parameters import bad_parameter
from service.state import Service
from service.tasks import Answer, ImageTask, Order
from service.uploads import receive_image


def service_of(request: Request) -> Service:
    """What the app's parts share."""
    service: Service = request.app.state.service
    return service


async def work_on_image(request: Request, model: HostedModel, task: ImageTask) -> Response:
    """Receive the image, have a worker do the task on it, and answer with what comes of it."""
    service = service_of(request)
    with service.buffers.lease() as book:
        data = await receive_image(request, service.settings, book)
        service.refuse_unless_open()
        answer = await perform(request, await order_of(model, task, data))
    return response_of(answer, model.info.name)


async def perform(request: Request, order: Order, leaving: "asyncio.Future[None] | None" = None) -> Answer:
    """Have an order done, and count it. leaving: done when the client leaves, for several orders at once.

    Raises what `Dispatcher.run` raises.
    """
    service = service_of(request)
    gone = client_leaves(request) if leaving is None else _wait_for(leaving)
    answer = await service.dispatcher.run(order, gone)
    service.metrics.answered(answer.timings, answer.windows, order.model)
    service.tracing.answered(request.scope, order.model, answer)
    return answer


def response_of(answer: Answer, model: str) -> Response:
    """The response that an answer is sent as."""
    headers = {
        "X-Model": _header_text(model),
        "Server-Timing": answer.timings.header(),
        "Cache-Control": "no-store",
    }
    return Response(answer.content, media_type=answer.media_type, headers=headers)


async def client_leaves(request: Request) -> None:
    """End when the connection is closed. The body has been read, so nothing else can arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refuse_repeated(request: Request) -> None:
    """Raise the 422 problem for a parameter that stands in the query more than once."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name in sorted(name for name, count in counts.items() if count > 1):
        raise bad_parameter(name, "given more than once; a list is written with commas")


async def _wait_for(leaving: "asyncio.Future[None]") -> None:
    await asyncio.shield(leaving)


def _header_text(name: str) -> str:
    """A model's name as a header can carry it: as it is, or percent-encoded where it is not plain ASCII."""
    return name if name.isascii() and name.isprintable() else quote(name)
