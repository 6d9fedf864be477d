"""The cost as payloads grow, and as models grow in number."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import models as onnx_models
from benchmarks.load import Order, Sample
from benchmarks.processes import LoadClient, yard
from benchmarks.report import table
from benchmarks.targets import Setting, start

PAYLOAD_KIB = (1, 16, 256, 1024, 4096, 16384, 65536)
PAYLOAD_TARGETS = ("bare", "host", "proxy", "gateway", "gateway-grpc")
SERVING = 20
_ROUNDS = 3


def _measure(client: LoadClient, address: str, request: Path, seconds: float) -> Sample:
    return client.measure(Order(address, str(request), 1, seconds))


def payload(client: LoadClient, seconds: float) -> tuple[str, dict[str, Any]]:
    """Latency of an identity model from 1 KiB to 64 MiB each way, one call in flight."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        model = onnx_models.identity(folder / "identity.onnx")
        setting = Setting(stack, folder, model, "identity")
        targets = [start(key, setting) for key in PAYLOAD_TARGETS]
        found: dict[int, dict[str, list[Sample]]] = {}
        for kib in PAYLOAD_KIB:
            request = folder / "request"
            request.write_bytes(onnx_models.request("identity", (kib * 256,)))
            found[kib] = {t.key: [] for t in targets}
            for number in range(_ROUNDS + 1):
                for target in targets:
                    if not target.address:
                        continue
                    sample = _measure(client, target.address, request, seconds if number else 0.3)
                    if number:  # the first round warms buffers
                        found[kib][target.key].append(sample)

    def cell(samples: list[Sample]) -> str:
        if not samples:
            return "absent"
        wrong = sum(s.errors for s in samples)
        p50 = median(s.p50 for s in samples)
        return f"{p50:,.0f}" + (f" ({wrong} errors)" if wrong else "")

    text = "p50 in microseconds, 1 in flight; an identity model, so the payload goes both ways.\n\n"
    text += table(
        ("payload KiB", *(t.title for t in targets)),
        [
            (f"{kib:,}", *(cell(samples) for samples in by_target.values()))
            for kib, by_target in found.items()
        ],
    )
    data = {
        "payload_kib": {
            str(kib): {key: [s.p50 for s in samples] for key, samples in row.items()}
            for kib, row in found.items()
        }
    }
    return text, data


def models(
    client: LoadClient, registered: Sequence[int], seconds: float
) -> tuple[str, dict[str, Any]]:
    """Gateway latency, memory and registration time from one model to many, 20 at most serving."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        running = stack.enter_context(yard(folder))
        request = folder / "request"
        request.write_bytes(onnx_models.request("mlp-0", (1, onnx_models.WIDTH)))
        made = 0
        for count in sorted(registered):
            began, first = time.monotonic(), made
            while made < count:
                file = onnx_models.mlp(folder / "mlp.onnx", seed=made)
                serving = made < SERVING
                running.client.register(f"mlp-{made}", file, wait=serving)
                if not serving:
                    # A model's first version becomes live; without a label nobody serves it.
                    running.client.remove_label(f"mlp-{made}", "live")
                made += 1
            seconds_each = (time.monotonic() - began) / max(made - first, 1)
            _measure(client, running.address, request, 0.5)
            samples = [_measure(client, running.address, request, seconds) for _ in range(_ROUNDS)]
            rows.append(
                {
                    "registered": made,
                    "serving": min(made, SERVING),
                    "p50_us": median(s.p50 for s in samples),
                    "p99_us": median(s.p99 for s in samples),
                    "errors": sum(s.errors for s in samples),
                    "gateway_mib": running.rss_mib("-m", "gateway"),
                    "registry_mib": running.rss_mib("-m", "services.registry"),
                    "hosts_mib": running.rss_mib("services.inference.host"),
                    "seconds_to_register_one": round(seconds_each, 2),
                }
            )
    text = "One model of them is called, 1 in flight; 20 at most serve.\n\n" + table(
        tuple(name.replace("_", " ") for name in rows[0]),
        [tuple(f"{value:,.4g}" for value in row.values()) for row in rows],
    )
    return text, {"rows": rows}
