"""Names the machine and the versions, so that a figure can be judged."""

import os
import platform
from importlib import metadata
from pathlib import Path


def describe() -> dict[str, str]:
    """What a reader of a result must know about where it was measured."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("grpcio", "protobuf", "onnxruntime")},
        "load when begun": f"{os.getloadavg()[0]:.2f}",
    }
