"""Measures ours beside named peers, in one run (`make bench`).

    python -m benchmarks.compare [--only calls payload models] [--rounds N] [--seconds S]

Every target serves the same model at the same time; one client process, on one core, calls each
in turn, round after round, so that a slow minute of the machine falls on all alike. A figure is
the median of rounds; a ratio is the median of the rounds' own ratios. What tells perf_analyzer
what it asks for is measured by that C++ client, too. Results go to benchmarks/results/ as Markdown
and JSON.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import machine, models, report, sweeps
from benchmarks.load import METHOD, Order, Sample
from benchmarks.native import PROGRAM, Unfit
from benchmarks.native import measure as perf_analyzer
from benchmarks.processes import LoadClient, cpu_seconds, load_client
from benchmarks.report import CPP, HALF, PYTHON, Row
from benchmarks.targets import STARTERS, Setting, Target, start

RESULTS = Path(__file__).parent / "results"
IN_FLIGHT = (1, 16, 64)
_WARM_SECONDS = 1.0
PARTS = ("calls", "payload", "models")


def check(address: str, request: bytes, model: Path) -> None:
    """Fails unless the server's answer is onnxruntime's."""
    import grpc
    import onnxruntime as ort

    from modelyard.inference.v2 import open_inference_pb2 as pb

    message = pb.ModelInferRequest.FromString(request)
    x = np.frombuffer(message.raw_input_contents[0], np.float32)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x.reshape(tuple(message.inputs[0].shape))})
    with grpc.insecure_channel(address) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        answer = pb.ModelInferResponse.FromString(infer(request, timeout=30))
    if answer.raw_output_contents:
        y = np.frombuffer(answer.raw_output_contents[0], np.float32)
    else:
        y = np.array(answer.outputs[0].contents.fp32_contents, np.float32)
    np.testing.assert_allclose(y, expected.ravel(), rtol=1e-4, atol=1e-4)


def calls(client: LoadClient, keys: Sequence[str], rounds: int, seconds: float) -> list[Row]:
    """Rounds over all targets, in closed loops by both clients, then at half of the usual most."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        model = models.mlp(folder / "mlp.onnx")
        request = folder / "request"
        request.write_bytes(models.request("mlp", (1, models.WIDTH)))
        setting = Setting(stack, folder, model, "mlp")
        targets: list[Target] = []
        for key in keys:
            print(f"starting {key}", file=sys.stderr, flush=True)
            targets.append(start(key, setting))
        present = [t for t in targets if t.address]
        for target in present:
            if key_is_server(target):
                check(target.address, request.read_bytes(), model)
            client.measure(Order(target.address, str(request), 4, _WARM_SECONDS))
        native = {t.key: t for t in present if key_is_server(t)} if PROGRAM.exists() else {}
        samples: dict[tuple[str, str, int], list[Sample]] = {}

        def take(how: str, target: Target, in_flight: int, measure: Callable[[], Sample]) -> None:
            own = how in (PYTHON, HALF[PYTHON])
            parts = {**target.parts, **({"client": client.pid} if own else {})}
            before = {part: cpu_seconds(pid) for part, pid in parts.items()}
            sample = measure()
            spent = {
                part: round(1e6 * (cpu_seconds(pid) - before[part]) / max(sample.calls, 1), 1)
                for part, pid in parts.items()
            }
            samples.setdefault((how, target.key, in_flight), []).append(replace(sample, cpu=spent))

        def by_python(target: Target, in_flight: int, rate: float = 0.0) -> None:
            order = Order(target.address, str(request), in_flight, seconds, rate)
            how = HALF[PYTHON] if rate else PYTHON
            take(how, target, in_flight, lambda: client.measure(order))

        def by_cpp(target: Target, in_flight: int, rate: float = 0.0) -> None:
            shape = (1, models.WIDTH)
            took = partial(perf_analyzer, target.address, "mlp", shape, in_flight, seconds, rate)
            try:
                take(HALF[CPP] if rate else CPP, target, in_flight, took)
            except Unfit as why:
                print(f"no perf_analyzer for {target.title}: {why}", file=sys.stderr, flush=True)
                del native[target.key]

        def most(how: str, target: Target) -> float:
            return median(s.throughput for s in samples[how, target.key, 16])

        def natives() -> list[Target]:
            return [target for target in present if target.key in native]

        rng = random.Random(1)
        for number in range(rounds):
            # Nobody always comes after the same one.
            rng.shuffle(present)
            for in_flight in IN_FLIGHT:
                for target in present:
                    by_python(target, in_flight)
                for target in natives():
                    by_cpp(target, in_flight)
            for target in present:
                if key_is_server(target):
                    by_python(target, 0, most(PYTHON, target) / 2)
            for target in natives():
                by_cpp(target, 0, most(CPP, target) / 2)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return [
        Row(target, how, in_flight, tuple(samples.get((how, target.key, in_flight), ())))
        for how, in_flight in (
            *product((PYTHON, CPP), IN_FLIGHT),
            *product(HALF.values(), (0,)),
        )
        for target in targets
        if key_is_server(target) or (how, in_flight) == (PYTHON, 1)
    ]


def key_is_server(target: Target) -> bool:
    """Tells whether a target has a wire."""
    return target.key != "onnxruntime"


def save(name: str, text: str, data: object) -> None:
    """Writes a result in both forms, and shows it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    print(text, flush=True)


def main() -> None:
    """Measures the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--targets", nargs="+", choices=list(STARTERS), default=list(STARTERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--registered", type=int, nargs="+", default=[1, 20, 100, 500])
    arguments = parser.parse_args()
    facts = machine.describe()
    about = report.machine(facts)
    with load_client() as client:
        if "calls" in arguments.only:
            rows = calls(client, arguments.targets, arguments.rounds, arguments.seconds)
            save(
                "calls",
                f"# Side by side\n\n{about}\nModel: FP32 MLP, 1x64. Clients: grpc.aio, and C++"
                f" (perf_analyzer), each on one core; medians of {arguments.rounds} interleaved"
                f" rounds of {arguments.seconds:g} s.\n\n"
                f"{report.ratios(rows)}\n{report.calls(rows)}",
                {"machine": facts, "rows": [asdict(row) for row in rows]},
            )
        if "payload" in arguments.only:
            text, data = sweeps.payload(client, arguments.seconds)
            save(
                "payload", f"# As the payload grows\n\n{about}\n{text}", {"machine": facts, **data}
            )
        if "models" in arguments.only:
            text, data = sweeps.models(client, arguments.registered, arguments.seconds)
            save(
                "models",
                f"# As models grow in number\n\n{about}\n{text}",
                {"machine": facts, **data},
            )


if __name__ == "__main__":
    main()
