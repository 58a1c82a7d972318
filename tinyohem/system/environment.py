"""The machine and the software of a run."""

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

_RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "tinyohem")


def environment(device: torch.device) -> dict[str, Any]:
    """Return what is needed to repeat a run: versions, processor, device, threads."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "packages": {name: _version(name) for name in _RECORDED_PACKAGES},
    }


def _processor_name() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
