"""Loads ONNX models, which ONNX Runtime runs as a black box: no layer of them can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cte_dask.models.network import Network
from cte_dask.models.package import Package
from cte_dask.models.spec import ModelSpec

__all__ = ["Onnx", "load_onnx"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_SILENT = 4  # fatal errors only


class Onnx:
    """Loads an ``.onnx`` file, or a folder that holds one with the files of its weights."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the model as a black box.

        Raises
        ------
        ValueError
            If it is no ONNX model, does not take one image, or has weights outside of the folder.
        """
        if path.is_dir():
            return load_onnx(_only_model(path), external=True)
        return load_onnx(path, external=False)


def load_onnx(path: Path, *, external: bool) -> Network:
    """Load an ONNX model.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    external
        Whether weights may lie in other files of its folder.

    Raises
    ------
    ValueError
        If it is no ONNX model, does not take one image, or has weights elsewhere.
    """
    _check_external(path, allowed=external)
    module = _Session(path)
    shape = module.fixed_shape
    return Network(
        forward=module,
        kind="opaque",
        fixed_shape=shape if any(n is not None for n in shape) else None,
        notes=("ONNX: a black box, in the precision it was saved in",),
    )


class _Session(nn.Module):
    """An ONNX Runtime session for each kind of device that a batch comes from."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._runtime = _required("onnxruntime")
        # A GPU's session is opened later, when a file unpacked from a package is already gone.
        self._path, self._content = path, path.read_bytes()
        # as many as torch may use: a worker's share of the machine
        self._threads = torch.get_num_threads()
        self._sessions: dict[str, Any] = {}
        session = self._session("cpu")
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"{path.name} takes {len(inputs)} inputs, not one image")
        if inputs[0].type not in _DTYPES:
            raise ValueError(
                f"{path.name} takes {inputs[0].type}: one of {', '.join(_DTYPES)} is needed"
            )
        self._input, self._outputs = inputs[0].name, [o.name for o in session.get_outputs()]
        self._dtype = _DTYPES[inputs[0].type]
        # The file gives a free extent a name, or None.
        self.fixed_shape = tuple(n if isinstance(n, int) else None for n in inputs[0].shape)
        if len(self.fixed_shape) not in (4, 5):
            raise ValueError(
                f"{path.name} takes {len(self.fixed_shape)} axes: batch, channel, [z,] y, x needed"
            )

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the output, or several by name, on the device and in the type of the batch `x`."""
        array = x.detach().to("cpu", self._dtype).numpy()
        session = self._session(x.device.type)
        arrays = session.run(self._outputs, {self._input: np.ascontiguousarray(array)})
        tensors = [torch.from_numpy(a).to(x.device, x.dtype) for a in arrays]
        return tensors[0] if len(tensors) == 1 else dict(zip(self._outputs, tensors, strict=True))

    def _session(self, device: str) -> Any:
        if device not in self._sessions:
            self._sessions[device] = self._open(device)
        return self._sessions[device]

    def _open(self, device: str) -> Any:
        runtime = self._runtime
        provider = _PROVIDERS[device]
        if provider not in runtime.get_available_providers():
            raise ValueError(f"ONNX Runtime has no {provider} here: install onnxruntime-gpu")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = _SILENT  # failures are raised; probing extents causes many
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._path.parent)
        )
        try:
            return runtime.InferenceSession(self._content, options, providers=[provider])
        # ONNX Runtime raises types of its own for everything a file can be.
        except Exception as error:
            raise ValueError(f"{self._path.name} is not a usable ONNX model: {error}") from error


def _only_model(folder: Path) -> Path:
    names = [name for name in Package(folder).names() if name.endswith(".onnx")]
    if len(names) != 1:
        raise ValueError(f"{folder} holds {len(names)} .onnx files, not one: name the file")
    return folder / names[0]


def _check_external(path: Path, *, allowed: bool) -> None:
    """Refuse weights in files outside of the model's folder, and unverified ones inside."""
    names = set(_external_files(_parsed(path)))
    if names and not allowed:
        raise ValueError(
            f"the weights of {path.name} lie in {', '.join(sorted(names))}: give the folder as "
            "source, so that these are verified too"
        )
    with Package(path.parent).files(*names):  # raises where a name leads out of the folder
        pass


def _parsed(path: Path) -> Any:
    model = _required("onnx").ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own type, which moved between its versions
        raise ValueError(f"{path.name} is not an ONNX model: {error}") from error
    if not model.HasField("graph"):
        raise ValueError(f"{path.name} is not an ONNX model: it has no graph")
    return model


def _external_files(message: Any) -> Iterator[str]:
    """Yield every file name that a tensor anywhere in the model refers to."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield from (entry.value for entry in message.external_data if entry.key == "location")
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else (value,):
                yield from _external_files(child)


def _required(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"format onnx needs {module}: pip install 'cte-dask[onnx]'") from error
