"""The client for programs that wait. Not here: what is asked (`calls.py`), asyncio (`async_client.py`)."""

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
from httpx2 import Response

from psanet_client import calls
from psanet_client.answers import Attention, Model, Picture, Prediction, Statistics
from psanet_client.calls import Call, Direction, Format, Output
from psanet_client.images import ImageLike, read
from psanet_client.retries import Retries

SCALES = (1.0,)
"""Where none are asked for."""
T = TypeVar("T")


class Client:
    """Asks a service; threads may share it. Close it, or use it in a `with`.

    url: of the service; api_key: where it asks for one; timeout_s: for an answer; retries: see `Retries`.
    Every question raises PSANetError where no answer can be had, OSError for a file that cannot be read and
    TypeError for what is no image.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retries: Retries = Retries(),  # noqa: B008 - frozen
    ) -> None:
        self._http = httpx2.Client(**connection(url, api_key, timeout_s))
        self._retries = retries
        self._default: str | None = None

    def models(self) -> tuple[Model, ...]:
        """The models that are served, the default first."""
        return self._ask(calls.models())

    def check_ready(self) -> None:
        """Return where work is taken; BusyError where it is not, after the retries."""
        self._ask(calls.ready())

    def predict(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        scales: Iterable[float] = SCALES,
        flip: bool = False,
        confidence: bool = False,
    ) -> Prediction:
        """Label an image: class ids as an array, and with `confidence` how certain each is.

        model: None for the service's first, as it was when this client first asked.
        """
        return self._ask(calls.predict(read(image), model or self._first_model(), scales, flip, confidence))

    def segment(
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
        """Label an image, and get a picture of it. classes: those that an overlay shows, by id or name."""
        return self._ask(calls.segment(read(image), output, model, scales, flip, alpha, format, classes))

    def statistics(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        scales: Iterable[float] = SCALES,
        flip: bool = False,
        polygons: bool = False,
    ) -> Statistics:
        """Label an image, and get pixels, share and run lengths of each class."""
        return self._ask(calls.statistics(read(image), model, scales, flip, polygons))

    def attention(
        self,
        image: ImageLike,
        points: Sequence[tuple[int, int]],
        *,
        model: str | None = None,
        direction: Direction | None = None,
        scale: float = 1.0,
    ) -> Attention:
        """What points, (x, y) in pixels, collect and distribute. direction: all of the model's if None."""
        return self._ask(calls.attention(read(image), points, model, direction, scale))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _first_model(self) -> str:
        if self._default is None:
            self.check_ready()  # until then there are none
            self._default = self.models()[0].name
        return self._default

    def _ask(self, call: Call[T]) -> T:
        for tries in count(1):
            outcome = self._try(call)
            wait_s = self._retries.wait_s(outcome, tries)
            if wait_s is None:
                break
            time.sleep(wait_s)
        return call.finish(outcome)

    def _try(self, call: Call[T]) -> Response | httpx2.RequestError:
        try:
            return self._http.request(call.method, call.path, **call.parts)
        except httpx2.RequestError as error:
            return error


def connection(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """What either client of httpx2 is opened with."""
    headers: Mapping[str, str] = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return {"base_url": url, "headers": headers, "timeout": timeout_s}
