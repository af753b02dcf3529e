"""The part of TensorRT's Python interface that this project calls, as a record of facts; and how to take it.

    python -m tests.inference.tensorrt_record tensorrt > record.json

Of each class: what its methods take (names in the order of the bindings' own signatures, "?" where one may be
left out; one text for every overload), its properties, and the members of enumerations. The records beside
this file were taken of the packages of those versions. TensorRT's bindings load without TensorRT and without
a GPU where stubs of its three shared libraries stand in, which is how theirs were taken.
"""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder", "IBuilderConfig", "INetworkDefinition", "OnnxParser", "ParserError", "IOptimizationProfile",
    "ITimingCache", "IHostMemory", "IProgressMonitor", "ILogger", "Runtime", "ICudaEngine",
    "IExecutionContext", "IRuntimeConfig", "IRuntimeCache",
)  # fmt: skip
ENUMERATIONS = (
    "BuilderFlag", "NetworkDefinitionCreationFlag", "ExecutionContextAllocationStrategy", "TensorIOMode",
    "DataType", "ComputeCapability", "CudaGraphStrategy", "EngineValidity", "EngineInvalidityDiagnostics",
)  # fmt: skip
RECORDS = Path(__file__).with_name("tensorrt_records.json")

Record = dict[str, Any]


def take(module: Any) -> Record:
    """The record of an imported library."""
    classes = {name: _members(getattr(module, name)) for name in CLASSES if hasattr(module, name)}
    enumerations = {
        name: {member: int(value) for member, value in getattr(module, name).__members__.items()}
        for name in ENUMERATIONS
        if hasattr(module, name)
    }
    top = [name for name in ("QuickPluginCreationRequest",) if hasattr(module, name)]
    return {"version": module.__version__, "classes": classes, "enumerations": enumerations, "other": top}


def recorded() -> dict[str, Record]:
    """The records by name: "tensorrt 10.13", say."""
    records: dict[str, Record] = json.loads(RECORDS.read_text(encoding="utf-8"))
    return records


def _members(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dir(cls):
        if name.startswith("add_") and cls.__name__ == "INetworkDefinition":
            continue  # layers: networks come from ONNX files
        value = getattr(cls, name)
        if isinstance(value, property):
            found[name] = "property"
        elif (
            (not name.startswith("_") or name == "__init__") and callable(value) and "(" in str(value.__doc__)
        ):
            signatures = _signatures(name, str(value.__doc__))
            if signatures:
                found[name] = signatures
    return found


def _signatures(name: str, text: str) -> list[str]:
    """From pybind11's docstrings: `name(self: T, a: int, b: str = None) -> bool`, a line each."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(rf"(?:\d+\. )?{name}\((self: .*)\) -> .*", line.strip())
        if match is None:
            continue
        parts = _split(match[1])[1:]
        names = [part.partition(":")[0] + ("?" if "=" in part else "") for part in parts]
        found.append(", ".join(names))
    return list(dict.fromkeys(found))


def _split(text: str) -> list[str]:
    """At the commas that lie in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


if __name__ == "__main__":
    print(json.dumps(take(importlib.import_module(sys.argv[1]))))
