"""From a received image to an order: its header says whether it is taken, and how much work it is.

Not here: pixels, which only workers touch.
"""

import asyncio

from inference.image_headers import check_pixels, read_container
from service.hosted import HostedModel
from service.logs import request_id
from service.tasks import Order, Task

_SMALL_BYTES = 1 << 18


async def order_of(model: HostedModel, task: Task, data: bytes) -> Order:
    """The order for an image file's content.

    Raises UnsupportedImageError, UndecodableImageError, ImageTooLargeError, as its header has it, and
    ParameterError.
    """
    if len(data) > _SMALL_BYTES:  # finding the way through a large file takes milliseconds
        image_hw = await asyncio.to_thread(_image_hw, data, task.max_pixels)
    else:
        image_hw = _image_hw(data, task.max_pixels)
    return Order(
        model=model.info.name,
        task=task,
        data=data,
        image_hw=image_hw,
        windows=model.work_of(task, image_hw),
        request_id=request_id.get(),
    )


def _image_hw(data: bytes, max_pixels: int) -> tuple[int, int]:
    header = read_container(data).header
    check_pixels(header.width, header.height, max_pixels)
    return header.upright_hw
