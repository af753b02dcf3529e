"""The Python client of a PSANet service; needs nothing else of this project (pip install '.[client]').

    from psanet_client import Client

    with Client("http://127.0.0.1:8000") as client:
        prediction = client.predict("street.jpg", scales=(0.75, 1, 1.25), flip=True, confidence=True)
        prediction.labels                                                # (H, W) class ids

`AsyncClient` is the same for asyncio. Both ask again where the service says that it is busy, after the time
that it names, and raise `PSANetError`s that say what to mend.
"""

from psanet_client.answers import (
    Attention,
    ClassStatistics,
    Model,
    ModelClass,
    Picture,
    PointAttention,
    Prediction,
    Statistics,
)
from psanet_client.async_client import AsyncClient
from psanet_client.client import Client
from psanet_client.errors import (
    AnswerError,
    BusyError,
    FaultError,
    NoAnswerError,
    PSANetError,
    RefusedError,
    UnreadableAnswerError,
)
from psanet_client.images import ImageLike
from psanet_client.retries import Retries

__all__ = [
    "AnswerError",
    "AsyncClient",
    "Attention",
    "BusyError",
    "ClassStatistics",
    "Client",
    "FaultError",
    "ImageLike",
    "Model",
    "ModelClass",
    "NoAnswerError",
    "PSANetError",
    "Picture",
    "PointAttention",
    "Prediction",
    "RefusedError",
    "Retries",
    "Statistics",
    "UnreadableAnswerError",
]
