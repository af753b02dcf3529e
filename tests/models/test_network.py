"""One base class gives every network the same tests: forward, backward, numbers stored at fixed weights."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.config import MEAN_RGB, PRESETS, STD_RGB, ConfigError
from models.network import SceneParser, TrainingLogits, build_network
from tests.models.networks import some_images, tiny_config, tiny_network


@dataclass(frozen=True)
class Variant:
    """A tiny network; `stored`: mean, deviation and one value of its logits for `some_images`."""

    changes: dict[str, Any]
    stored: tuple[float, float, float]
    size_hw: tuple[int, int] = field(default=(65, 65))


class NetworkContract:
    """What every network does; a subclass names one in `variant`."""

    variant: Variant

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls) -> SceneParser:
        return tiny_network(**cls.variant.changes)

    def test_logits_have_the_images_size(self, network: SceneParser) -> None:
        images = some_images(2, self.variant.size_hw)
        with torch.no_grad():
            logits = network(images)
        assert logits.shape == (2, 5, *self.variant.size_hw)
        assert logits.dtype == torch.float32

    def test_coarse_logits_resampled_with_corners_aligned_are_the_logits(self, network: SceneParser) -> None:
        images = some_images(1, self.variant.size_hw)
        with torch.no_grad():
            coarse = network.coarse_logits(images)
            resampled = F.interpolate(coarse, self.variant.size_hw, mode="bilinear", align_corners=True)
            assert torch.equal(resampled, network(images))
        stride = network.config.output_stride
        assert coarse.shape[2:] == tuple((side - 1) // stride + 1 for side in self.variant.size_hw)

    def test_an_image_s_logits_do_not_depend_on_the_others_in_its_batch(self, network: SceneParser) -> None:
        images = some_images(3, self.variant.size_hw)
        with torch.no_grad():
            together, alone = network(images), network(images[1:2])
        assert torch.allclose(together[1:2], alone, atol=1e-4 * float(alone.std()))

    def test_numbers_are_those_stored(self, network: SceneParser) -> None:
        with torch.no_grad():
            logits = network(some_images(1, self.variant.size_hw)).double()
        found = (float(logits.mean()), float(logits.std()), float(logits[0, 3, 21, 34]))
        assert found == pytest.approx(self.variant.stored, abs=2e-4 * self.variant.stored[1])

    def test_a_training_step_reaches_every_parameter(self, network: SceneParser) -> None:
        statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
        outputs = network.train()(some_images(2, self.variant.size_hw))
        assert isinstance(outputs, TrainingLogits)
        assert outputs.main.shape == (2, 5, *self.variant.size_hw)
        target = torch.randint(5, (2, *self.variant.size_hw), generator=torch.Generator().manual_seed(0))
        loss = F.cross_entropy(outputs.main, target)
        if network.config.aux:
            assert outputs.aux is not None
            assert outputs.aux.shape == outputs.main.shape
            loss = loss + 0.4 * F.cross_entropy(outputs.aux, target)
        else:
            assert outputs.aux is None
        loss.backward()
        network.eval().load_state_dict(statistics, strict=False)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_a_side_that_is_not_a_multiple_of_the_stride_and_one_is_refused(
        self, network: SceneParser
    ) -> None:
        for call in (network, network.coarse_logits):
            with pytest.raises(ValueError, match=r"\(65, 66\): each side must be \d+n \+ 1"):
                call(some_images(1, (65, 66)))


class TestBidirectional(NetworkContract):
    variant = Variant({}, (0.33281, 0.25226, 0.11918))


class TestCollect(NetworkContract):
    variant = Variant({"psa_type": "collect"}, (0.3224, 0.22043, 0.18959))


class TestDistribute(NetworkContract):
    variant = Variant({"psa_type": "distribute"}, (0.32258, 0.22051, 0.19129))


class TestCompact(NetworkContract):
    variant = Variant({"compact": True}, (0.3331, 0.25241, 0.12039))


class TestCompactDistribute(NetworkContract):
    variant = Variant({"compact": True, "psa_type": "distribute"}, (0.32243, 0.22076, 0.18926))


class TestSmallMaskNotSquare(NetworkContract):
    changes = {"crop_hw": (65, 97), "mask_hw": (5, 3), "normalization_factor": 2.0, "aux": False}
    variant = Variant(changes, (0.32886, 0.25576, 0.093917), (65, 97))


class TestUnshrunkWithoutSoftmax(NetworkContract):
    variant = Variant(
        {"shrink_factor": 1, "psa_softmax": False, "normalization_factor": 81.0}, (0.33608, 0.25446, 0.1585)
    )


class TestBottlenecks(NetworkContract):
    variant = Variant({"depth": 50}, (0.20915, 0.29057, -0.055665))


class TestOutputStride16(NetworkContract):
    changes = {"stage_dilations": (1, 2), "crop_hw": (129, 129), "shrink_factor": 1}
    variant = Variant(changes, (0.3044, 0.27122, 0.093052), (129, 129))


class TestBaseline(NetworkContract):
    variant = Variant({"context": "none"}, (0.31942, 0.23259, -0.056596))


class TestGlobalPooling(NetworkContract):
    variant = Variant({"context": "global"}, (0.46552, 0.38989, -0.018561))


class TestASPP(NetworkContract):
    variant = Variant({"context": "aspp"}, (0.36464, 0.34908, 0.23751))


class TestNonLocal(NetworkContract):
    variant = Variant({"context": "nonlocal"}, (0.35503, 0.31535, -0.044291))


class TestPyramidPooling(NetworkContract):
    variant = Variant({"context": "ppm", "crop_hw": (73, 89)}, (0.36756, 0.24243, 0.24892), (73, 89))


def test_pixels_are_normalised_inside_the_network() -> None:
    network = tiny_network(context="none")
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    grey = torch.tensor(MEAN_RGB).view(1, 3, 1, 1).expand(1, 3, 65, 65)
    deviation = torch.tensor(STD_RGB).view(1, 3, 1, 1)
    with torch.no_grad():
        network(grey)
        network(grey + 2 * deviation)
    assert torch.equal(seen[0], torch.zeros(1, 3, 65, 65))
    assert torch.allclose(seen[1], torch.full((1, 3, 65, 65), 2.0), atol=1e-4)
    assert pytest.approx((123.675, 116.28, 103.53)) == MEAN_RGB
    assert pytest.approx((58.395, 57.12, 57.375)) == STD_RGB


def test_mean_and_deviation_are_no_weights() -> None:
    names = list(tiny_network(context="none").state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "cls", "aux"}


def test_a_network_runs_in_double_channels_last_and_half() -> None:
    images = some_images()
    with torch.no_grad():
        reference = tiny_network().double()(images.double())
        network = tiny_network().to("cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]
        channels_last = network(images.contiguous(memory_format=torch.channels_last))
        half = tiny_network().bfloat16()(images.bfloat16())
    deviation = float(reference.std())
    assert torch.allclose(channels_last.double(), reference, atol=1e-4 * deviation)
    assert (half.double() - reference).abs().mean() < 0.1 * deviation


def test_the_auxiliary_loss_supervises_stages_1_to_4_alone() -> None:
    network = tiny_network().train()
    outputs = network(some_images(2))
    assert isinstance(outputs, TrainingLogits)
    assert outputs.aux is not None
    outputs.aux.square().mean().backward()
    learned = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    stages = tuple(f"backbone.layer{i}." for i in range(4))
    assert learned == {name for name, _ in network.named_parameters() if name.startswith((*stages, "aux."))}


def test_fresh_weights_are_he_s_in_the_backbone() -> None:
    torch.manual_seed(0)
    network = build_network(tiny_config())
    convolution = network.backbone.layer4[1].conv2
    assert isinstance(convolution, nn.Conv2d)
    fan_out = 512 * 3 * 3
    assert float(convolution.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)


def test_psanet50_has_the_parameters_counted_by_hand() -> None:
    with torch.device("meta"):
        network = build_network(PRESETS["psanet50_ade20k"])
    backbone = sum(parameter.numel() for parameter in network.backbone.parameters())  # see test_resnet.py
    norm = 2 * 512
    branch = (2048 * 512 + norm) + (512 * 512 + norm) + 512 * 59 * 59
    psa = 2 * branch + (1024 * 2048 + 2 * 2048)
    classifier = (4096 * 512 * 9 + norm) + (512 * 150 + 150)
    auxiliary = (1024 * 256 * 9 + 2 * 256) + (256 * 150 + 150)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == backbone + psa + classifier + auxiliary


def test_attention_is_of_the_features_and_no_logit_changes_by_it() -> None:
    network, images = tiny_network(), some_images(2)
    with torch.no_grad():
        before = network(images)
        weights = network.attention(images)
        after = network(images)
        alone = network.attention(images[1:])
    assert torch.equal(before, after)
    assert {direction: tuple(each.shape) for direction, each in weights.items()} == {
        "collect": (2, 25, 25),
        "distribute": (2, 25, 25),
    }
    for direction, each in weights.items():
        torch.testing.assert_close(each.sum(2), torch.ones(2, 25))
        torch.testing.assert_close(each[1:], alone[direction], atol=1e-6, rtol=1e-4)
    assert not torch.allclose(weights["collect"], weights["distribute"], atol=1e-3)


@pytest.mark.parametrize("context", ["none", "nonlocal", "ppm"])
def test_only_a_psa_module_attends(context: str) -> None:
    changes: dict[str, Any] = {"context": context, **({"crop_hw": (57, 57)} if context == "ppm" else {})}
    network = tiny_network(**changes)
    with pytest.raises(ConfigError, match=f"'{context}' has no point-wise spatial attention"):
        network.attention(some_images(1, network.config.crop_hw))
