"""The TensorRT plugin: its kernel gives what the torch op gives, and TensorRT is told what it needs to know.

No GPU is needed: the kernel's own source runs on the CPU (`kernel_host.cpp`), launched as the plugin tells
TensorRT to launch it. `gpu` tests run it on one; tests of TensorRT itself skip where it is not installed.
"""

import ctypes
import importlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export import plugin
from export.errors import UnavailableError
from export.graph import COLLECT, DISTRIBUTE
from export.plugin import ENTRIES, KERNEL, PLUGIN_ID, prepare, register
from tests.export.fake_tensorrt import (
    SIGNATURES,
    DataType,
    Definition,
    Launch,
    build_and_describe,
    fake_tensorrt,
)
from tests.export.test_graph import SIZES, alone, random_map, torch_op

# Beyond one tile of 32 positions: features that fill tiles, and that do not; a smaller and an even mask.
LARGER = [((13, 13), (7, 7)), ((3, 5), (8, 8)), ((6, 4), (5, 13)), ((1, 1), (6, 6))]

Kernel = Callable[[Launch, NDArray[Any]], NDArray[Any]]
DTYPES = {"fp32": (np.float32, DataType.FLOAT), "fp16": (np.float16, DataType.HALF)}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """Runs the kernel's source on the CPU, launched as `Launch` says."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler to run the kernel's source with")
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    source = Path(__file__).with_name("kernel_host.cpp")
    command = [
        compiler,
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        f'-DKERNEL="{KERNEL}"',
        "-o",
        library,
        source,
    ]
    subprocess.run(command, check=True, timeout=120)
    function = ctypes.CDLL(str(library)).run_kernel

    def run(launch: Launch, values: NDArray[Any]) -> NDArray[Any]:
        shape = tuple(side.value for side in launch.output.shape_expr)
        guard = 64
        memory = np.full(int(np.prod(shape)) + guard, 777, values.dtype)
        grid, block, scalars = (
            (ctypes.c_int * len(numbers))(*numbers)
            for numbers in (launch.parameters.grid, launch.parameters.block, launch.scalars)
        )
        taken, given = (ctypes.c_void_p(array.ctypes.data) for array in (values, memory))
        assert function(launch.entry.encode(), grid, block, taken, scalars, given) == 0
        assert (memory[-guard:] == 777).all(), "written past the end"
        return memory[:-guard].reshape(shape)

    return run


@pytest.fixture
def definition(monkeypatch: pytest.MonkeyPatch) -> Definition:
    """The plugin as a (pretended) TensorRT has it, with no compiler at work."""
    monkeypatch.setattr(plugin, "_ptx", lambda capability: f"PTX for {capability}")
    module, definitions = fake_tensorrt()
    _install(module, monkeypatch)
    register(module)
    return definitions[PLUGIN_ID]


def _install(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, f"{module.__name__}.plugin", module.plugin)


def launch_of(
    definition: Definition, values: NDArray[Any], mask_hw: tuple[int, int], kind: int, precision: str
) -> Launch:
    mask_h, mask_w = mask_hw
    dtype = DTYPES[precision][1]
    return build_and_describe(definition, values.shape, dtype, mask_h=mask_h, mask_w=mask_w, type=kind)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("kind", [COLLECT, DISTRIBUTE])
@pytest.mark.parametrize(("mask_hw", "features_hw"), SIZES + LARGER)
def test_the_kernel_gives_what_the_torch_op_gives(
    kernel: Kernel,
    definition: Definition,
    mask_hw: tuple[int, int],
    features_hw: tuple[int, int],
    kind: int,
    precision: str,
) -> None:
    for batch in (1, 3):
        values = random_map(batch, mask_hw, features_hw).astype(DTYPES[precision][0])
        result = kernel(launch_of(definition, values, mask_hw, kind, precision), values)
        np.testing.assert_array_equal(result, torch_op(values, mask_hw, kind))


def test_values_that_are_not_finite_stay_where_they_are(kernel: Kernel, definition: Definition) -> None:
    values = random_map(1, (3, 3), (6, 7))
    values[0, ::2, 1] = np.inf
    values[0, 1::2, 2] = np.nan
    launch = launch_of(definition, values, (3, 3), COLLECT, "fp32")
    np.testing.assert_array_equal(kernel(launch, values), torch_op(values, (3, 3), COLLECT))


@pytest.mark.parametrize("precision", DTYPES)
def test_tensorrt_is_told_sizes_types_and_launch(definition: Definition, precision: str) -> None:
    values = np.empty((4, 59 * 31, 30, 20), DTYPES[precision][0])
    launch = launch_of(definition, values, (59, 31), DISTRIBUTE, precision)
    assert [side.value for side in launch.output.shape_expr] == [4, 600, 30, 20]
    assert launch.output.dtype is DTYPES[precision][1]
    assert launch.types == "FP32|FP16, FP32|FP16"
    assert (launch.entry, launch.ptx) == (ENTRIES[precision], "PTX for 75")
    assert (launch.parameters.grid, launch.parameters.block) == ((19, 19, 4), (32, 8, 1))
    assert launch.scalars == [30, 20, 59, 31, 1]


def test_registering_twice_is_once(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    module, definitions = fake_tensorrt()
    _install(module, monkeypatch)
    register(module)
    first = definitions[PLUGIN_ID].describe
    register(module)
    assert definitions[PLUGIN_ID].describe is first


def test_runtimes_without_such_plugins_are_refused_with_the_mend() -> None:
    for name in ("tensorrt_rtx", "tensorrt"):
        with pytest.raises(UnavailableError, match=rf"{name} .*needs TensorRT 10\.13.*--runtime tensorrt"):
            register(ModuleType(name))


def test_tensorrt_rtx_as_installed_is_refused() -> None:
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    with pytest.raises(UnavailableError, match="no ahead-of-time Python plugins"):
        register(rtx)


def test_without_nvrtc_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> str:
        raise UnavailableError("NVRTC is not installed")

    monkeypatch.setattr(plugin, "compile_ptx", missing)
    plugin._ptx.cache_clear()
    module, definitions = fake_tensorrt()
    _install(module, monkeypatch)
    with pytest.raises(UnavailableError):
        register(module)
    assert not definitions


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_a_prepared_model_holds_the_node_as_the_parser_looks_plugins_up(dtype: int) -> None:
    model = alone((5, 7), (4, 3), DISTRIBUTE, dtype)
    before = model.SerializeToString()
    prepared = prepare(model)
    assert model.SerializeToString() == before
    assert not prepared.functions
    (node,) = prepared.graph.node
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    own = {"mask_h": 5, "mask_w": 7, "type": DISTRIBUTE}
    assert attributes == {**own, "plugin_namespace": b"psanet", "plugin_version": b"1", "aot": 1}
    assert (f"{attributes['plugin_namespace'].decode()}::{node.op_type}") == PLUGIN_ID


def test_other_functions_of_a_model_stay() -> None:
    model = alone((3, 3), (3, 3), COLLECT)
    other = onnx.FunctionProto()
    other.CopyFrom(model.functions[0])
    other.name = "Other"
    model.functions.append(other)
    assert [function.name for function in prepare(model).functions] == ["Other"]


def test_a_prepared_model_does_not_run_without_the_plugin() -> None:
    """It is for TensorRT alone; the bundle's own file is left as it is."""
    with pytest.raises(Exception, match="PSAMask"):
        onnxruntime.InferenceSession(
            prepare(alone((3, 3), (3, 3), COLLECT)).SerializeToString(), providers=["CPUExecutionProvider"]
        )


def test_a_model_without_the_node_is_refused_with_the_mend() -> None:
    with pytest.raises(UnavailableError, match="leave --plugin out"):
        prepare(onnx.ModelProto())


def test_the_recorded_signatures_are_those_of_the_installed_tensorrt() -> None:
    library = pytest.importorskip("tensorrt.plugin", reason="TensorRT proper is not installed")
    for name, parameters in SIGNATURES.items():
        assert list(inspect.signature(getattr(library, name)).parameters) == parameters


def test_the_fake_has_the_recorded_signatures() -> None:
    library: Any = fake_tensorrt()[0].plugin
    for name, parameters in SIGNATURES.items():
        assert list(inspect.signature(getattr(library, name)).parameters) == parameters


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("kind", [COLLECT, DISTRIBUTE])
@pytest.mark.parametrize(("mask_hw", "features_hw"), [*SIZES, *LARGER, ((59, 59), (30, 30))])
def test_the_kernel_on_a_gpu_gives_what_the_torch_op_gives(
    definition: Definition, mask_hw: tuple[int, int], features_hw: tuple[int, int], kind: int, precision: str
) -> None:
    values = random_map(3, mask_hw, features_hw).astype(DTYPES[precision][0])
    launch = launch_of(definition, values, mask_hw, kind, precision)
    entry = torch.cuda._compile_kernel(KERNEL.read_text(), launch.entry)
    shape = [side.value for side in launch.output.shape_expr]
    taken = torch.from_numpy(values).cuda()
    given = torch.full(shape, 777, dtype=taken.dtype, device="cuda")
    entry(launch.parameters.grid, launch.parameters.block, (taken, *launch.scalars, given))
    np.testing.assert_array_equal(given.cpu().numpy(), torch_op(values, mask_hw, kind))


@pytest.fixture
def tensorrt() -> Any:
    pytest.importorskip("tensorrt.plugin", reason="TensorRT proper is not installed")
    return importlib.import_module("tensorrt")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("kind", [COLLECT, DISTRIBUTE])
def test_an_engine_with_the_plugin_gives_what_the_torch_op_gives(
    tensorrt: Any, kind: int, precision: str
) -> None:
    register(tensorrt)
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    # TensorRT 11 knows no other networks.
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = tensorrt.OnnxParser(network, logger)
    dtype = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16}[precision]
    model = prepare(alone((13, 6), (7, 6), kind, dtype))
    assert parser.parse(model.SerializeToString()), [
        str(parser.get_error(i)) for i in range(parser.num_errors)
    ]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("map", (1, 78, 7, 6), (2, 78, 7, 6), (4, 78, 7, 6))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    for batch in (1, 3):
        values = random_map(batch, (13, 6), (7, 6)).astype(DTYPES[precision][0])
        taken = torch.from_numpy(values).cuda()
        given = torch.full((batch, 42, 7, 6), 777, dtype=taken.dtype, device="cuda")
        context.set_input_shape("map", values.shape)
        context.set_tensor_address("map", taken.data_ptr())
        context.set_tensor_address("attention", given.data_ptr())
        assert context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        np.testing.assert_array_equal(given.cpu().numpy(), torch_op(values, (13, 6), kind))
