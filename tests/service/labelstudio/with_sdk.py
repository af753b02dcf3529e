"""Holds a running service's brush labels against its own labels, by the decoder of label-studio-sdk.

    python -m venv sdk && sdk/bin/pip install label-studio-sdk==2.1.2
    sdk/bin/python tests/service/labelstudio/with_sdk.py http://127.0.0.1:8000 street.jpg

Apart from the suite, since the SDK wants another OpenCV and another numpy than the service is tested with; it
needs nothing of this project. Prints one JSON line last; exit code 1 where a pixel differs.
"""

import base64
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image


def ask(url: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
    """The content of an answer."""
    with urlopen(Request(url, body, {"Content-Type": kind}), timeout=120) as response:
        content: bytes = response.read()
    return content


def main(service: str, path: str) -> int:
    """Compare every class of one image."""
    names = [each["name"] for each in json.loads(ask(f"{service}/models"))[0]["classes"]]
    labels = "".join(f'<Label value="{name}"/>' for name in names)
    brush = f'<BrushLabels name="brush" toName="image">{labels}</BrushLabels>'
    interface = f'<View><Image name="image" value="$image"/>{brush}</View>'
    file = Path(path).read_bytes()
    task = {"id": 1, "data": {"image": f"data:;base64,{base64.b64encode(file).decode()}"}}
    body: dict[str, Any] = {"tasks": [task], "label_config": interface, "project": "1.1"}
    (prediction,) = json.loads(ask(f"{service}/predict", json.dumps(body).encode()))["results"]
    with Image.open(io.BytesIO(ask(f"{service}/segment", file, "application/octet-stream"))) as picture:
        expected = np.asarray(picture)
    painted = np.full(expected.shape, 255)
    for region in prediction["result"]:
        size = (region["original_height"], region["original_width"], 4)
        rgba = np.reshape(decode_rle(region["value"]["rle"]), size)
        painted[rgba[..., 3] > 0] = names.index(region["value"]["brushlabels"][0])
    differing = int((painted != expected).sum())
    facts = {"regions": len(prediction["result"]), "pixels": expected.size, "differing": differing}
    print(json.dumps({"label_studio_sdk": version("label-studio-sdk"), **facts}))
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
