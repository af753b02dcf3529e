"""What the exporters' command lines share: options for calibration, progress on stderr, exit codes.

Not here: what they do (`export/onnx.py`, `export/trt.py`).

    sys.exit(run("export.onnx", args.ckpt, "exported", lambda: export_onnx(args.ckpt)))
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping

from export.errors import ExportError, VerificationError
from inference.errors import InferenceError
from models.errors import CheckpointError


def check_calibration(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the command where `--calib` is given for another precision than int8."""
    if args.calib is not None and args.precision != "int8":
        parser.error("--calib goes with --precision int8: leave it out")


def run(program: str, checkpoint: str, done: str, work: Callable[[], Mapping[str, object]]) -> int:
    """Does the work, prints its figures as one JSON line, and returns the exit code: 1 where what was `done`
    is not the network, 2 where it cannot be done, 130 on Ctrl-C; then a sentence on stderr says so."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    # Run as a command, a module is `__main__` and no child of `export`.
    for name in ("export", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        figures = work()
    except VerificationError as error:
        print(f"{program}: {checkpoint} was {done} but the result was not kept: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted; nothing was written", file=sys.stderr)
        return 130
    except (ExportError, CheckpointError, InferenceError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures), flush=True)
    return 0
