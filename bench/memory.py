"""Peak memory of this process, without what the process that started it had before (which getrusage counts on Linux)."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Return the peak resident set of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status names no VmHWM; this measurement needs Linux")
