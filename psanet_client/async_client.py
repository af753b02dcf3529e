"""The client for asyncio. Not here: what is asked (`calls.py`), what it means (`client.py`)."""

from collections.abc import Iterable, Sequence
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.to_thread
import httpx2
import numpy as np
from httpx2 import Response
from numpy.typing import NDArray

from psanet_client import calls
from psanet_client.answers import Attention, Model, Picture, Prediction, Statistics
from psanet_client.calls import Call, Direction, Format, Output
from psanet_client.client import SCALES, connection
from psanet_client.images import ImageLike, read
from psanet_client.retries import Retries

T = TypeVar("T")


class AsyncClient:
    """`Client` to be awaited; tasks may share it. Close it, or use it in an `async with`.

    Files are read in a thread.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retries: Retries = Retries(),  # noqa: B008 - frozen
    ) -> None:
        self._http = httpx2.AsyncClient(**connection(url, api_key, timeout_s))
        self._retries = retries
        self._default: str | None = None

    async def models(self) -> tuple[Model, ...]:
        """As `Client.models`."""
        return await self._ask(calls.models())

    async def check_ready(self) -> None:
        """As `Client.check_ready`."""
        await self._ask(calls.ready())

    async def predict(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        scales: Iterable[float] = SCALES,
        flip: bool = False,
        confidence: bool = False,
    ) -> Prediction:
        """As `Client.predict`."""
        pixels, name = await _read(image), model or await self._first_model()
        return await self._ask(calls.predict(pixels, name, scales, flip, confidence))

    async def segment(
        self,
        image: ImageLike,
        *,
        output: Output = "labels",
        model: str | None = None,
        scales: Iterable[float] = SCALES,
        flip: bool = False,
        alpha: float = 0.5,
        format: Format = "png",
        classes: Sequence[int | str] | None = None,
    ) -> Picture:
        """As `Client.segment`."""
        pixels = await _read(image)
        return await self._ask(calls.segment(pixels, output, model, scales, flip, alpha, format, classes))

    async def statistics(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        scales: Iterable[float] = SCALES,
        flip: bool = False,
        polygons: bool = False,
    ) -> Statistics:
        """As `Client.statistics`."""
        return await self._ask(calls.statistics(await _read(image), model, scales, flip, polygons))

    async def attention(
        self,
        image: ImageLike,
        points: Sequence[tuple[int, int]],
        *,
        model: str | None = None,
        direction: Direction | None = None,
        scale: float = 1.0,
    ) -> Attention:
        """As `Client.attention`."""
        return await self._ask(calls.attention(await _read(image), points, model, direction, scale))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _first_model(self) -> str:
        if self._default is None:
            await self.check_ready()  # until then there are none
            self._default = (await self.models())[0].name
        return self._default

    async def _ask(self, call: Call[T]) -> T:
        for tries in count(1):
            outcome = await self._try(call)
            wait_s = self._retries.wait_s(outcome, tries)
            if wait_s is None:
                break
            await anyio.sleep(wait_s)
        return call.finish(outcome)

    async def _try(self, call: Call[T]) -> Response | httpx2.RequestError:
        try:
            return await self._http.request(call.method, call.path, **call.parts)
        except httpx2.RequestError as error:
            return error


async def _read(image: ImageLike) -> bytes | NDArray[np.uint8]:
    return await anyio.to_thread.run_sync(read, image)
