"""vLLM's second model runner on a CPU, in every Python process that has this folder on its path.

vLLM takes that runner wherever Triton has an active driver. Here it finds one, and Triton's
interpreter runs the kernels as NumPy: slow, but the very code path of a GPU. Python imports a
module of this name at its start, so that engines and servers in processes of their own come this
way too.
"""

from __future__ import annotations

import os


def pretend() -> None:
    """Activates a driver of Triton for the CPU; to be called before vLLM is imported."""
    import torch
    from triton.backends import Backend, backends
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Compiler:
        """What PyTorch's compiler asks of Triton's, which it needs not on a CPU."""

        def __init__(self, target: GPUTarget) -> None:
            self.target = target

        @staticmethod
        def supports_target(target: GPUTarget) -> bool:
            return target.backend == "cpu"

        def hash(self) -> str:
            return "interpreted"

    class Interpreted:
        """What vLLM and Triton ask of a driver."""

        @staticmethod
        def is_active() -> bool:
            return True

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cpu", 0, 0)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: object) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def get_device_interface(self) -> object:
            return torch.cpu

    backends["cpu"] = Backend(compiler=Compiler, driver=Interpreted)
    driver.set_active(Interpreted())


if os.environ.get("TRITON_INTERPRET") == "1":
    pretend()
