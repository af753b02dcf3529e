"""From a training's checkpoint to the file that is kept: fp16 safetensors, no optimizer or auxiliary head.

Not here: the ONNX bundle (`python -m export.onnx`), which takes this file.

    python -m training.release --ckpt runs/camvid_psanet18/checkpoint.pth \\
        --out models/bundled/psanet18_camvid/psanet18_camvid.safetensors

Prints one JSON line last: {"checkpoint": …, "parameters": …, "bytes": …, "sha256": …}.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import CheckpointError, load_checkpoint, save_safetensors
from models.config import ModelConfig
from models.network import build_network


def release(checkpoint_path: Path, out: Path) -> dict[str, Any]:
    """Writes `out` atomically and reads it back; returns the JSON line's content. Raises CheckpointError."""
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out} must end in .safetensors")
    checkpoint = load_checkpoint(checkpoint_path)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(checkpoint, out)
    released = load_checkpoint(out)
    return {
        "checkpoint": str(out),
        "parameters": parameters(released.config),
        "bytes": out.stat().st_size,
        "sha256": released.sha256,
    }


def parameters(config: ModelConfig) -> int:
    """Of the network as it is served: what is learned, without the auxiliary head."""
    with torch.device("meta"):
        network = build_network(config.replace(aux=False))
    return sum(parameter.numel() for parameter in network.parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ckpt", type=Path, required=True, help="a training's checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    args = parser.parse_args(arguments)
    try:
        print(json.dumps(release(args.ckpt, args.out)))
    except CheckpointError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except OSError as error:
        where = error.filename or args.out
        parser.exit(2, f"{parser.prog}: error: {where} cannot be used: {error.strerror or error}\n")


if __name__ == "__main__":
    main()
