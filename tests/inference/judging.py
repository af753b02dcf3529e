"""How a prediction is judged beside what was computed slowly, and the memory that it took."""

import tracemalloc
from typing import Any

import numpy as np

from inference.prediction import Prediction
from inference.predictor import Predictor


def assert_published(found: Prediction, expected: np.ndarray, *, clear_share: float = 0.99) -> None:
    """expected: probabilities (classes, H, W). Labels must be equal where the best class leads by 1e-5, as it
    must on more than `clear_share` of the pixels."""
    assert found.probabilities is not None
    assert found.confidence is not None
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(found.confidence, expected.max(0), atol=1e-5)
    second, first = np.sort(expected, axis=0)[-2:]
    clear = first - second > 1e-5
    assert clear.mean() > clear_share
    np.testing.assert_array_equal(found.labels[clear], expected.argmax(0)[clear])


def traced_peak(predictor: Predictor, image: np.ndarray, **options: Any) -> int:
    """Bytes that numpy and Python hold at the most during a prediction that is not the first."""
    predictor.predict(image, **options)
    tracemalloc.start()
    try:
        predictor.predict(image, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
