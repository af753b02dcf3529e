"""The nuclio function by which CVAT reaches a running service: its function.yaml.

    python -m service.cvat http://127.0.0.1:8000 --url http://host.docker.internal:8000 > function.yaml

docs/cvat/main.py is what it runs. Not here: what it asks (`routes.py`).
"""

import json
import re
from collections.abc import Sequence

_TEMPLATE = """\
# Made by python -m service.cvat; docs/cvat.md says how CVAT gets it.
metadata:
  name: {name}
  namespace: cvat
  annotations:
    name: {title}
    type: detector
    framework: psanet
    spec: |
      [
{labels}
      ]

spec:
  description: Hands images to a PSANet service, which labels every pixel
  runtime: "python:3.11"
  handler: main:handler
  eventTimeout: 120s
  env:
    - name: PSANET_URL
      value: {url}
    - name: PSANET_QUERY
      value: {query}
    # An API key, where the service asks for one.
    - name: PSANET_KEY
      value: ""

  build:
    image: {image}
    baseImage: python:3.11-slim

  triggers:
    myHttpTrigger:
      numWorkers: 2
      kind: "http"
      workerAvailabilityTimeoutMilliseconds: 10000
      attributes:
        maxRequestBodySize: 33554432

  platform:
    attributes:
      restartPolicy:
        name: always
        maximumRetryCount: 3
      mountMode: volume
"""


def function_yaml(model: str, class_names: Sequence[str], url: str, query: str) -> str:
    """The function for a model. url: of the service, as a container of nuclio sees it; query: of /cvat."""
    name = re.sub("[^a-z0-9]+", "-", model.lower()).strip("-")
    name = name if name.startswith("psanet") else f"psanet-{name}".rstrip("-")
    labels = [
        json.dumps({"id": class_id, "name": label, "type": "mask"}, ensure_ascii=False)
        for class_id, label in enumerate(class_names)
    ]
    return _TEMPLATE.format(
        name=name,
        title=_text(f"PSANet {model}"),
        labels=",\n".join(f"        {label}" for label in labels),
        url=_text(url),
        query=_text(query),
        image=f"cvat.{name}",
    )


def _text(value: str) -> str:
    """As YAML, of which JSON is a part."""
    return json.dumps(value, ensure_ascii=False)
