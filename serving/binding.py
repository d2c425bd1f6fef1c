"""A session whose inputs and outputs are bound to a device, so that one call copies each of them once.

Source: ONNX Runtime's documentation of I/O binding. On the CPU it computes the same and gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime


class BoundSession:
    """Stands for a session where `run` is called; one binding per call, so that threads can share it."""

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        """Take a session; device is cpu or cuda."""
        self._session = session
        self._device = device

    def get_inputs(self) -> Any:
        """As the session's."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """As the session's."""
        return self._session.get_outputs()

    def get_provider_graph_assignment_info(self) -> Any:
        """As the session's."""
        return self._session.get_provider_graph_assignment_info()

    def run(self, names: Sequence[str], inputs: Mapping[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """The named outputs, in memory of the CPU.

        Args:
            names: of the outputs.
            inputs: by name; copied to the device, where the graph reads them.
        """
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array, self._device, 0))
        for name in names:
            binding.bind_output(name, self._device)  # allocated there by the call: shapes follow the texts
        self._session.run_with_iobinding(binding)
        outputs: list[NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        return outputs
