"""Which machine measured: enough to tell it from another, and no name of host or user."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

SAME = ("processor", "architecture", "cores", "threads", "cpu_capability", "gpu")
"""What must agree before ratios of two runs are compared."""


def described() -> dict[str, str]:
    """Return what tells one machine, and one installation, from another."""
    from importlib.metadata import version

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model, and what else tells two of the same marketing name apart."""
    try:
        text = listing.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    pattern = re.compile(r"^(model name|cpu family|model|stepping)\s*:\s*(.*)$", re.MULTILINE)
    fields = dict(pattern.findall(text))
    if not fields:
        return platform.processor() or "unknown"
    numbers = ".".join(fields.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{fields.get('model name', 'unknown').strip()} ({numbers})"


def differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """Return what tells the machine of an earlier run from this one; empty where it is the same."""
    return [
        f"{key}: {then.get(key, 'not said')!r} there, {now.get(key, 'not said')!r} here"
        for key in SAME
        if then.get(key) != now.get(key)
    ]
