"""Throughput and latency of the service with many clients, and of small images beside a large one.

    python benchmarks/batching.py [--against FOLDER] [--set PSANET_MAX_BATCH=4 ...] [--seconds 4] [--rounds 2]

Small: an image that is one window of the model, from 1, 8 and 32 clients that each ask again as soon as they
have their answer. Mixed: four such clients beside one that asks for six scales and the mirror image of a
2048x1024 picture, again and again. `against`: another checkout of this project, an older one say, whose
service is measured beside this one's, in turn, with its own settings. Ratios are this service over that one.
About two minutes with both. Prints one JSON line last.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from _clients import Client, Load, run
from _common import report
from _serving import ROOT, jpeg_of, resident_mb, serving

from inference.bundle import resolve_model

SIX_SCALES = "?scales=0.5,0.75,1,1.25,1.5,1.75&flip=true"
SMALL, SIX = "small", "six scales"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of this service")
    parser.add_argument("--model", default="psanet18_camvid", help="a bundle or a bundled name")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    found = resolve_model(args.model)
    crop_hw = found.info.crop_hw  # type: ignore[union-attr]
    small = Client(SMALL, jpeg_of(crop_hw), f"?scales={max(crop_hw) / found.info.base_size:.6f}")  # type: ignore[union-attr]
    large = Client(SIX, jpeg_of((1024, 2048)), SIX_SCALES)
    cases = {count: [small] * int(count) for count in args.clients.split(",")} | {
        "mixed": [large, *[small] * 4]
    }
    settings = dict(pair.split("=", 1) for pair in args.set) | {"PSANET_MODELS": args.model}
    with ExitStack() as stack:
        sides = {"this": stack.enter_context(serving(ROOT, settings))}
        if args.against:
            other = serving(args.against, {"PSANET_MODELS": args.model})
            sides["against"] = stack.enter_context(other)
        loads = {side: {case: {SMALL: Load(), SIX: Load()} for case in cases} for side in sides}
        for side in sides.values():
            run(side.port, [small], 0.5, {SMALL: Load()})
        for _ in range(args.rounds):
            for case, clients in cases.items():
                for side, running in sides.items():
                    run(running.port, clients, args.seconds, loads[side][case])
        memory_mb = {side: round(resident_mb(running.process.pid)) for side, running in sides.items()}
    figures = {
        side: {
            case: {kind: load.summary() for kind, load in kinds.items() if load.statuses}
            for case, kinds in of_side.items()
        }
        for side, of_side in loads.items()
    }
    report(
        benchmark="batching",
        model=args.model,
        settings=settings,
        seconds=args.seconds * args.rounds,
        figures=figures,
        after_mb=memory_mb,
        ratios=ratios(figures) if args.against else None,
    )


def ratios(figures: dict[str, dict[str, dict[str, dict[str, object]]]]) -> dict[str, dict[str, float]]:
    """This service over the other one, by case, of small images: answers a second and the 95th percentile."""
    result = {}
    for case, kinds in figures["this"].items():
        pairs = {
            key: (kinds[SMALL][key], figures["against"][case][SMALL][key]) for key in ("per_s", "p95_ms")
        }
        result[case] = {key: round(mine / other, 3) for key, (mine, other) in pairs.items()}  # type: ignore[operator]
    return result


if __name__ == "__main__":
    main()
