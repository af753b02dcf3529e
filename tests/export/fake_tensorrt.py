"""`tensorrt.plugin` as far as it is called: recorded signatures, the same checks, sizes that are numbers.

What TensorRT 10.13.0 and 11.1.0 publish of it in Python was the model; `build_and_describe` does what their
builder does with a plugin, in their order.
"""

import enum
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

# Of 10.13.0 and 11.1.0: parameters, and for functions nothing else.
SIGNATURES = {
    "register": ["plugin_id", "lazy_register"],
    "autotune": ["plugin_id"],
    "aot_impl": ["plugin_id"],
    "from_shape_expr": ["shape_expr", "dtype"],
    "cdiv": ["first", "second"],
    "AutoTuneCombination": ["io_types", "layouts", "tactics"],
    "KernelLaunchParams": [
        *("grid_x", "grid_y", "grid_z"),
        *("block_x", "block_y", "block_z"),
        "shared_mem",
    ],
    "SymInt32": ["value"],
}


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class SymInt32:
    """A size, here always known."""

    def __init__(self, value: "int | SymInt32") -> None:
        assert isinstance(value, int | SymInt32)
        self.value: int = value if isinstance(value, int) else value.value


class ShapeExpr(SymInt32):
    def __mul__(self, other: "int | ShapeExpr") -> "ShapeExpr":
        return ShapeExpr(self.value * SymInt32(other).value)


class SymIntExprs:
    def __init__(self, expressions: list[SymInt32]) -> None:
        self.expressions = expressions

    @classmethod
    def from_tuple(cls, shape_exprs: list[SymInt32]) -> "SymIntExprs":
        assert all(isinstance(item, SymInt32) for item in shape_exprs)
        return cls(list(shape_exprs))


class TensorDesc:
    def __init__(self, shape_expr: tuple[ShapeExpr, ...], dtype: DataType) -> None:
        assert all(isinstance(side, ShapeExpr) for side in shape_expr)
        self.shape_expr, self.dtype = shape_expr, dtype


def from_shape_expr(shape_expr: tuple[ShapeExpr, ...], dtype: DataType) -> TensorDesc:
    assert isinstance(shape_expr, tuple)
    return TensorDesc(shape_expr, dtype)


def cdiv(first: ShapeExpr, second: int) -> ShapeExpr:
    assert isinstance(first, ShapeExpr)
    return ShapeExpr(-(-first.value // second))


@dataclass
class AutoTuneCombination:
    io_types: str | None = None
    layouts: str | None = None
    tactics: list[int] | None = None


class KernelLaunchParams:
    def __init__(
        self,
        grid_x: Any = 1,
        grid_y: Any = 1,
        grid_z: Any = 1,
        block_x: Any = 1,
        block_y: Any = 1,
        block_z: Any = 1,
        shared_mem: Any = 0,
    ) -> None:
        self.grid = tuple(SymInt32(side).value for side in (grid_x, grid_y, grid_z))
        self.block = tuple(SymInt32(side).value for side in (block_x, block_y, block_z))
        self.shared_mem = SymInt32(shared_mem).value


@dataclass
class Definition:
    """A plugin that was registered."""

    describe: Callable[..., TensorDesc]
    attributes: dict[str, Any]
    autotune: Callable[..., Any] | None = None
    implement: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Launch:
    """What an engine would keep of the plugin for one set of sizes."""

    output: TensorDesc
    types: str
    entry: str
    ptx: str
    parameters: KernelLaunchParams
    scalars: list[int]


def fake_tensorrt() -> tuple[ModuleType, dict[str, Definition]]:
    """A module with a `plugin` module in it (in sys.modules is for the caller), and what gets registered."""
    definitions: dict[str, Definition] = {}
    module, plugin, op = ModuleType("fake_trt"), ModuleType("fake_trt.plugin"), ModuleType("op")
    module.__dict__.update(DataType=DataType, QuickPluginCreationRequest=object(), plugin=plugin)

    def register(plugin_id: str, lazy_register: bool = False) -> Callable[..., Any]:
        def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
            namespace, name = plugin_id.split("::")
            assert plugin_id not in definitions
            parameters = inspect.signature(function).parameters
            assert all(item.default is inspect.Parameter.empty for item in parameters.values())
            kinds = [item.annotation for item in parameters.values()]
            assert kinds[0] is TensorDesc
            assert inspect.signature(function).return_annotation is TensorDesc
            definitions[plugin_id] = Definition(function, dict(list(zip(parameters, kinds, strict=True))[1:]))
            setattr(op, namespace, ModuleType(namespace))
            setattr(getattr(op, namespace), name, definitions[plugin_id])
            return function

        return decorator

    def autotune(plugin_id: str) -> Callable[..., Any]:
        def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(function)
            assert list(signature.parameters) == ["over_completed", "outputs"]
            assert typing.get_args(signature.return_annotation) == (AutoTuneCombination,)
            definitions[plugin_id].autotune = function
            return function

        return decorator

    def aot_impl(plugin_id: str) -> Callable[..., Any]:
        def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
            attributes, signature = definitions[plugin_id].attributes, inspect.signature(function)
            assert list(signature.parameters) == ["over_completed", *attributes, "outputs", "tactic"]
            for name, kind in attributes.items():
                assert signature.parameters[name].annotation == kind
            assert typing.get_args(signature.parameters["outputs"].annotation) == (TensorDesc,)
            assert signature.parameters["tactic"].annotation is int
            returned = (str, str, KernelLaunchParams, SymIntExprs)
            assert typing.get_args(signature.return_annotation) == returned
            definitions[plugin_id].implement = function
            return function

        return decorator

    known = (
        TensorDesc,
        SymInt32,
        SymIntExprs,
        KernelLaunchParams,
        AutoTuneCombination,
        from_shape_expr,
        cdiv,
    )
    plugin.__dict__.update({item.__name__: item for item in known})
    plugin.__dict__.update(register=register, autotune=autotune, aot_impl=aot_impl, op=op)
    return module, definitions


def build_and_describe(
    definition: Definition, shape: tuple[int, ...], dtype: DataType, **attributes: int
) -> Launch:
    """What TensorRT's builder asks of a plugin for an input of that shape."""
    given = {name: _as_parsed(definition.attributes[name], value) for name, value in attributes.items()}
    assert list(given) == list(definition.attributes)
    tensor = TensorDesc(tuple(map(ShapeExpr, shape)), dtype)
    output = definition.describe(tensor, **given)
    assert definition.autotune is not None
    assert definition.implement is not None
    (combination,) = definition.autotune(tensor, [output])
    entry, ptx, launch, extra = definition.implement(tensor, *given.values(), [output], 0)
    assert isinstance(launch, KernelLaunchParams)
    assert isinstance(extra, SymIntExprs)
    scalars = [item.value for item in extra.expressions]
    return Launch(output, combination.io_types, entry, ptx, launch, scalars)


def _as_parsed(annotation: Any, value: int) -> Any:
    """An ONNX INT comes as an array of one int32, and is converted by what the plugin says it is."""
    field = np.array([value], np.int32)
    if typing.get_origin(annotation) is np.ndarray:
        return field.astype(typing.get_args(typing.get_args(annotation)[1])[0])
    return annotation(field)
