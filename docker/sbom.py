"""What the CPU image holds of Python: a bill of materials in CycloneDX, with licences.

Installs what Dockerfile.cpu installs into a folder that is deleted afterwards, and lists that. The packages
of the base image's Debian are not in it: `docker buildx build --sbom=true` lists those, too.

    make sbom          out/sbom-cpu.cdx.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from by_hand import DOCKERFILE, ROOT, Folder, read_stages

DEFAULT_OUT = ROOT / "out" / "sbom-cpu.cdx.json"
_TOOL = Path(sys.executable).with_name("cyclonedx-py")


def write_sbom(python: Path, out: Path) -> int:
    """Lists the environment of an interpreter; returns how many packages it has beside this project's own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [_TOOL, "environment", "--pyproject", ROOT / "pyproject.toml", "--mc-type", "application"]
    command += ["--output-reproducible", "--gather-license-texts", "--output-file", out, python]
    subprocess.run(list(map(str, command)), check=True)
    return len(json.loads(out.read_text())["components"])


def main() -> int:
    """Installs, lists, deletes."""
    parser = argparse.ArgumentParser(description="Writes the CPU image's bill of materials.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--environment", type=Path, help="Python of an environment that is there already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="psanet-sbom-", dir="/var/tmp") as path:
        python = args.environment
        if python is None:
            Folder(Path(path), sys.executable).build(read_stages(DOCKERFILE)[:1])
            python = Path(path) / "opt" / "psanet" / "bin" / "python"
        count = write_sbom(python, args.out)
    print(json.dumps({"sbom": str(args.out), "packages": count}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
