"""The command line of `training.prepare`.

    python -m training.prepare voc2012 ~/Downloads --out data/voc2012 --workers 4

The progress goes to stderr. Prints one JSON line last: {"dataset": …, "lists": {"train_aug": 10582, …},
"complete": true, …}. Exit 2, with the mend, for whatever is missing, partial or damaged; the same command
goes on where an interrupted run stopped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.prepare import ade20k, camvid, cityscapes, coco, voc2012
from training.prepare.archives import open_sources
from training.prepare.core import finished_summary, prepare
from training.prepare.errors import PrepareError

_DATASETS = {"ade20k": ade20k, "voc2012": voc2012, "cityscapes": cityscapes, "camvid": camvid, "coco": coco}


def run(
    dataset: str,
    paths: Sequence[Path],
    *,
    out: Path,
    workers: int = 0,
    allow_partial: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Prepares `dataset` from `paths` into `out`; options: of its `plan`. Raises PrepareError."""
    module, options = _DATASETS[dataset], options or {}
    with open_sources(paths, module.ARCHIVES, leave_out=out) as sources:
        if (summary := finished_summary(dataset, sources, out=out, options=options)) is not None:
            return summary
        plan = module.plan(sources, **options)
        return prepare(plan, sources, out=out, workers=workers, allow_partial=allow_partial)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.workers < 0:
        parser.error("--workers takes 0 or more")
    options = {key: getattr(args, key) for key in ("fine", "min_pixels") if hasattr(args, key)}
    try:
        summary = run(
            args.dataset,
            args.sources,
            out=args.out or Path("data") / args.dataset,
            workers=args.workers,
            allow_partial=args.allow_partial,
            options=options,
        )
    except PrepareError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted; the same command goes on from here\n")
    print(json.dumps(summary))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.prepare", description="From downloaded archives to checked lists."
    )
    commands = parser.add_subparsers(dest="dataset", required=True, metavar="|".join(_DATASETS))
    for name, module in _DATASETS.items():
        command = commands.add_parser(
            name,
            help=", ".join(module.ARCHIVES),
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "sources",
            nargs="+",
            type=Path,
            metavar="DOWNLOADS",
            help="archives, the folder they lie in, or the folder they were unpacked to",
        )
        command.add_argument("--out", type=Path, help=f"the prepared folder; default: data/{name}")
        command.add_argument(
            "--workers", type=int, default=0, help="processes that convert labels beside this one; default: 0"
        )
        command.add_argument(
            "--allow-partial",
            action="store_true",
            help="go on with what is there and usable, and say what was left out",
        )
        if name == "cityscapes":
            command.add_argument("--fine", action="store_true", help="leave the coarse labels out")
        if name == "coco":
            command.add_argument(
                "--min-pixels",
                type=int,
                default=coco.MIN_PIXELS,
                help="of VOC's classes in an image, for it to be taken; default: %(default)s",
            )
    return parser


if __name__ == "__main__":
    main()
