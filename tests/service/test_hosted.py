"""What the service knows of a model without its engine: as much work as the predictor then has."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from inference.mmseg_plan import PicturePlan
from inference.plan import Plan
from inference.predictor import Predictor
from service.devices import devices_of
from service.errors import Problem
from service.hosted import HostedModel
from service.orders import order_of
from service.tasks import AttentionTask
from tests.inference.fakes import AnySizeEngine, ConvolutionEngine, made_info
from tests.service.fakes import encoded, three_colors, tiny_app
from tests.service.test_dispatch import TASK

SIDES = st.integers(1, 400)
SCALES = st.lists(st.sampled_from((0.5, 0.75, 1.0, 1.25, 2.0)), min_size=1, max_size=4)


def hosted(predictor: Predictor) -> HostedModel:
    engine = predictor.engine
    return HostedModel(
        info=predictor.info,
        engine=engine.name,
        device=engine.device,
        one_size=engine.crop_hw is not None,
        directions=None,
        batch=1,
        window_s=0.1,
    )


@given(image_hw=st.tuples(SIDES, SIDES), scales=SCALES, flip=st.booleans())
def test_windows_of_the_published_protocol_are_counted(
    image_hw: tuple[int, int], scales: list[float], flip: bool
) -> None:
    predictor = Predictor(made_info(), ConvolutionEngine())
    plan = predictor.plan(image_hw, scales=scales, flip=flip)
    assert isinstance(plan, Plan)
    views = sum(1 for band in plan.bands for _ in plan.views(band))
    count = hosted(predictor).windows(image_hw, scales, flip=flip)
    assert views <= count
    # Of a picture that is much enlarged, some windows lie between pixels and are not needed.
    assert views == count or min(image_hw) < 120


@given(image_hw=st.tuples(SIDES, SIDES), scales=SCALES, flip=st.booleans(), whole=st.booleans())
def test_pixels_of_mmsegmentations_protocol_are_counted_in_windows(
    image_hw: tuple[int, int], scales: list[float], flip: bool, whole: bool
) -> None:
    info = made_info(
        protocol="mmsegmentation", test_mode="whole" if whole else "sliding", base_size=60, base_short=40
    )
    predictor = Predictor(info, AnySizeEngine())
    plan = predictor.plan(image_hw, scales=scales, flip=flip)
    assert isinstance(plan, PicturePlan)
    pixels = 0
    for views in plan.batches():
        height, width = plan.request.pictures[views[0][0]].window_hw
        pixels += len(views) * height * width
    count = hosted(predictor).windows(image_hw, scales, flip=flip)
    assert count == max(1, -(-pixels // (33 * 33)))


def test_attention_is_the_windows_of_its_points_or_a_whole_image() -> None:
    task = AttentionTask(
        points=((1, 1), (2, 2), (90, 50)),
        directions=("collect",),
        overlay=False,
        scale=1.0,
        alpha=0.5,
        format="png",
        max_pixels=10_000,
    )
    sliding = hosted(Predictor(made_info(), ConvolutionEngine()))
    assert sliding.work_of(task, (300, 400)) == 3
    assert sliding.work_of(replace(task, points=task.points * 10), (300, 400)) == sliding.windows(
        (300, 400), (1.0,), flip=False
    )
    info = made_info(protocol="mmsegmentation", test_mode="whole", base_size=600, base_short=400)
    whole = hosted(Predictor(info, AnySizeEngine()))
    assert whole.work_of(task, (300, 400)) == whole.windows((300, 400), (1.0,), flip=False) > 100


def test_facts_travel_between_processes_as_plain_values() -> None:
    model = replace(hosted(Predictor(made_info(), ConvolutionEngine())), directions=("collect",))
    assert HostedModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model


def test_what_is_no_image_is_refused_without_a_worker() -> None:
    app = tiny_app(deadline_s=20)
    service = app.state.service
    for place in list(service.dispatcher._places):
        service.dispatcher.detach(place.worker)
    client = TestClient(app)
    headers = {"content-type": "application/octet-stream"}
    assert client.post("/segment", content=b"no image", headers=headers).status_code == 415
    assert client.post("/segment", content=b"\xff\xd8\xff", headers=headers).status_code == 422


@pytest.mark.parametrize("noise", [0, 300_000])
def test_an_order_says_how_many_windows_it_is_once_the_image_is_upright(noise: int) -> None:
    model = hosted(Predictor(made_info(), ConvolutionEngine()))
    task = replace(TASK, scales=(1.0, 2.0), flip=True, max_pixels=10_000)
    exif: Any = __import__("PIL.Image").Image.Exif()
    exif[0x0112] = 6
    data = encoded(three_colors(40, 90), "JPEG", exif=exif) + bytes(noise)
    order = asyncio.run(order_of(model, task, data))
    assert order.windows == model.windows((90, 40), (1.0, 2.0), flip=True)
    assert order.data is data


def test_one_device_is_one_device_and_cuda_without_a_driver_stays_what_it_is() -> None:
    assert devices_of("cpu") == ["cpu"]
    assert devices_of("cuda:3") == ["cuda:3"]
    assert devices_of("cuda")[0].startswith("cuda")


def test_every_gpu_that_the_driver_tells_of_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.devices._count_gpus", lambda: 3)
    assert devices_of("cuda") == ["cuda:0", "cuda:1", "cuda:2"]


def test_a_name_never_becomes_a_path() -> None:
    client = TestClient(tiny_app())
    for name in ("../tiny", "/etc/passwd", "tiny/../tiny", "tiny\0"):
        response = client.post("/segment", params={"model": name}, content=encoded(three_colors()))
        assert (response.status_code, response.json()["code"]) == (404, "unknown_model")
    with pytest.raises(Problem, match="No model"):
        client.app.state.service.models.find("x")  # type: ignore[attr-defined]
