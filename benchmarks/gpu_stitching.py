"""Everything but the network on a GPU: 1024x2048, 19 and 150 classes, one scale and six with flip.

    python benchmarks/gpu_stitching.py [--seconds 60] [--device cpu --tiny]

The whole way of an image with an engine that costs nothing: with the kernels at several sizes of their tiles,
with torch's own operations, and on numpy. Labels of each are held against the first. Prints a row each, then
one JSON line; skips aloud, with exit code 0, where the device is missing.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from _common import photograph, report
from _gpu import describe_gpu
from _no_network import NoNetwork

from inference.bundle import ModelInfo
from inference.device import availability
from inference.predictor import Predictor
from models.config import ModelConfig
from models.labels import get_label_set

SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
TILES = ((32, 1), (16, 1), (32, 2), (64, 2), (64, 4), (16, 2), (16, 4), (16, 8), (8, 4), (8, 8))


def main() -> None:
    args = _arguments()
    if args.device != "cpu" and not torch.cuda.is_available():
        print("skipped: PyTorch finds no GPU here (--device cpu --tiny runs the same code on a CPU)")
        report(benchmark="gpu_stitching", skipped="no GPU")
        return
    end, rows = time.perf_counter() + args.seconds, []
    for dataset, crop in (("cityscapes", 705), ("ade20k", 465)):
        crop, image_hw = (65, (64, 128)) if args.tiny else (crop, (1024, 2048))
        info, config = made_info(dataset, crop, max(image_hw))
        image = photograph(image_hw)
        for protocol, options in (("single", {}), ("six", {"scales": SIX_SCALES, "flip": True})):
            reference = None
            for way, tile in ways(args.device):
                row: dict[str, Any] = {"classes": config.classes, "protocol": protocol, "way": way}
                if time.perf_counter() > end:
                    row["skipped"] = "no time left (--seconds)"
                else:
                    row |= measured(info, config, image, options, args.device, way, tile)
                    labels = row.pop("labels", None)
                    reference = labels if reference is None else reference
                    if labels is not None:
                        row["agreement"] = round(float((labels == reference).mean()), 6)
                rows.append(row)
                print(row, flush=True)
    described = describe_gpu() if args.device != "cpu" else {"torch": torch.__version__}
    report(benchmark="gpu_stitching", device=args.device, **described, rows=rows)


def made_info(dataset: str, crop: int, base_size: int) -> tuple[ModelInfo, ModelConfig]:
    """What a model of that data set would say of itself."""
    labels = get_label_set(dataset)
    config = ModelConfig(depth=101, classes=len(labels.class_names), crop_hw=(crop, crop))
    info = ModelInfo(
        name=dataset,
        architecture=config,
        dataset=dataset,
        class_names=labels.class_names,
        palette=labels.palette,
        crop_hw=config.crop_hw,
        base_size=base_size,
    )
    return info, config


def ways(device: str) -> list[tuple[str, tuple[int, int] | None]]:
    """Names, and the tile of the kernels that is tried."""
    found: list[tuple[str, tuple[int, int] | None]] = [("numpy", None), ("torch", None)]
    if device != "cpu":
        found = [("kernels", None), *found, *((f"kernels {tile}", tile) for tile in TILES)]
    return found


def measured(
    info: ModelInfo,
    config: ModelConfig,
    image: np.ndarray,
    options: dict[str, Any],
    device: str,
    way: str,
    tile: tuple[int, int] | None,
) -> dict[str, Any]:
    """Milliseconds of a whole prediction by that way, the least of a few, and its labels."""
    where = torch.device(device, 0) if device != "cpu" else torch.device("cpu")
    kernels, of = None, None
    try:
        if way == "torch":
            availability._found[str(where)] = None
        elif way.startswith("kernels"):
            availability._found.pop(str(where), None)
        if tile is not None:
            kernels = availability.find_kernels(where)
            assert kernels is not None, "the kernels do not run here"
            made = kernels.Tile(*tile)
            of, kernels.Tile.of = kernels.Tile.__dict__["of"], staticmethod(lambda classes: made)
        predictor = Predictor(info, NoNetwork(config, "numpy" if way == "numpy" else str(where)))
        times: list[float] = []
        while len(times) < 7 and sum(times) < 4.0:
            started = time.perf_counter()
            labels = predictor.predict(image, **options).labels
            times.append(time.perf_counter() - started)
        fused = predictor.plan(image.shape[:2], **options).request.fused  # type: ignore[union-attr]
        least = round(min(times) * 1e3, 2)
        return {"ms": least, "first_ms": round(times[0] * 1e3), "fused": fused, "labels": labels}
    except Exception as error:  # one way that fails leaves the others
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
    finally:
        if kernels is not None and of is not None:
            kernels.Tile.of = of


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of all of it (default: 60)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a small image in small windows")
    return parser.parse_args()


if __name__ == "__main__":
    main()
