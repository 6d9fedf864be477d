"""The Open Inference Protocol of one version: protobuf in and out, whatever carries the calls."""

import time
from collections.abc import Mapping, Sequence

from modelyard.client.codec import datatype_of
from modelyard.errors import (
    HostGone,
    InvalidArgument,
    InvalidTensor,
    ModelNotFound,
    ModelyardError,
    VersionNotFound,
    VersionNotServing,
)
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.names import VersionName
from services.inference.host import description
from services.inference.host.engine import Engine
from services.inference.host.tensors import CONTENTS, Array, as_given, encode


class ModelService:
    """Answers for one version of one model. Fronts carry the calls in.

    A call may say for which version it is meant (`target`): the gateway's choice, which goes
    over what the request itself says.

    Attributes:
        draining: Set it, and new inference is refused as HostGone.
    """

    def __init__(self, version: VersionName, engine: Engine) -> None:
        self.draining = False
        self._version = version
        self._number = str(version.number)
        self._target = str(version)
        self._engine = engine

    async def infer(
        self, request: pb.ModelInferRequest, target: str | None, remaining: float | None
    ) -> pb.ModelInferResponse:
        """One inference.

        Cancelling the awaiting task stops the run.

        Args:
            request: The request.
            target: The version that the gateway chose, by its name; None for none.
            remaining: The seconds that the call has left; None for no deadline.

        Raises:
            ModelyardError: What is wrong with the call, or became of it.
        """
        began = time.monotonic_ns()
        engine, statistics = self._engine, self._engine.statistics
        try:
            if self.draining:
                raise HostGone("the host ends; try another")
            self._check_target(target, request.model_name, request.model_version)
            deadline = _deadline(began, remaining, request)
            wanted = engine.select([o.name for o in request.outputs])
            feeds, size = self._decode(request)
            decoded = time.monotonic_ns()
            results, queued, ran = await engine.run(feeds, wanted, size, deadline)
            response = pb.ModelInferResponse(
                model_name=self._version.model, model_version=self._number, id=request.id
            )
            for tensor, result in zip(wanted, results, strict=True):
                response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=result.shape)
                response.raw_output_contents.append(encode(result))
        except BaseException as error:  # counted, whatever it is, and raised on
            statistics.failed(time.monotonic_ns() - began, error)
            raise
        statistics.answered(began, decoded, queued, ran, time.monotonic_ns())
        return response

    async def infer_arrays(
        self, arrays: Mapping[str, Array], outputs: Sequence[str], target: str, remaining: float
    ) -> dict[str, Array]:
        """One inference without messages, for a caller in this process.

        Cancelling the awaiting task stops the run.

        Args:
            arrays: The inputs by name. Nobody writes into them while the call is under way.
            outputs: The names of the wanted outputs; all of them when empty.
            target: The version that the gateway chose, by its name.
            remaining: The seconds that the call has left.

        Returns:
            The outputs by name, read-only.

        Raises:
            ModelyardError: What is wrong with the call, or became of it; as `infer`.
        """
        began = time.monotonic_ns()
        engine, statistics = self._engine, self._engine.statistics
        try:
            if self.draining:
                raise HostGone("the host ends; try another")
            self._check_target(target, "", "")
            wanted = engine.select(outputs)
            plan = engine.plan(tuple((n, _datatype(n, a), a.shape) for n, a in arrays.items()))
            feeds: dict[str, Array] = {}
            size = 0
            for slot in plan:
                feed = feeds[slot.name] = slot.array(arrays[slot.name])
                size += slot.size or sum(map(len, feed.ravel()))
            decoded = time.monotonic_ns()
            deadline = began + int(remaining * 1e9)
            results, queued, ran = await engine.run(feeds, wanted, size, deadline)
            answer = {t.name: as_given(r) for t, r in zip(wanted, results, strict=True)}
        except BaseException as error:  # counted, whatever it is, and raised on
            statistics.failed(time.monotonic_ns() - began, error)
            raise
        statistics.answered(began, decoded, queued, ran, time.monotonic_ns())
        return answer

    def _decode(self, request: pb.ModelInferRequest) -> tuple[dict[str, Array], int]:
        """The inputs as arrays, and how many bytes they took (0 for typed contents)."""
        inputs = request.inputs
        raws = request.raw_input_contents
        plan = self._engine.plan(tuple((i.name, i.datatype, tuple(i.shape)) for i in inputs))
        feeds: dict[str, Array] = {}
        size = 0
        if not raws:
            for slot, given in zip(plan, inputs, strict=True):
                field = CONTENTS.get(slot.datatype)
                if field is None:
                    if slot.count:
                        raise InvalidTensor(
                            f"input '{slot.name}' for model '{slot.model}' is {slot.datatype},"
                            " which travels in raw_input_contents only",
                            input=slot.name,
                        )
                    feeds[slot.name] = slot.raw(b"")
                else:
                    feeds[slot.name] = slot.typed(getattr(given.contents, field))
                    size += slot.size
            return feeds, size
        if len(raws) != len(inputs):
            raise InvalidTensor(
                f"expected {len(inputs)} raw input contents but got {len(raws)}"
                f" for model '{self._version.model}'"
            )
        for slot, given, raw in zip(plan, inputs, raws, strict=True):
            if given.HasField("contents"):
                raise InvalidTensor(
                    "contents field must not be specified when using raw_input_contents"
                    f" for '{slot.name}' for model '{slot.model}'",
                    input=slot.name,
                )
            feeds[slot.name] = slot.raw(raw)
            size += len(raw)
        return feeds, size

    def ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """True until the host drains."""
        return pb.ServerReadyResponse(ready=not self.draining)

    def model_ready(
        self, request: pb.ModelReadyRequest, target: str | None
    ) -> pb.ModelReadyResponse:
        """True for the version served, until the host drains."""
        try:
            self._check_target(target, request.name, request.version)
        except ModelyardError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self.draining)

    def metadata(
        self, request: pb.ModelMetadataRequest, target: str | None
    ) -> pb.ModelMetadataResponse:
        """The inputs and outputs."""
        self._check_target(target, request.name, request.version)
        return description.metadata(self._version, self._engine.signature)

    def config(self, request: pb.ModelConfigRequest, target: str | None) -> pb.ModelConfigResponse:
        """The configuration, as perf_analyzer and Triton's clients read it."""
        self._check_target(target, request.name, request.version)
        return description.config(self._version, self._engine.signature)

    def statistics(
        self, request: pb.ModelStatisticsRequest, target: str | None
    ) -> pb.ModelStatisticsResponse:
        """Counts and times since the host began."""
        if request.name:
            self._check_target(target, request.name, request.version)
        return description.statistics(self._version, self._engine.statistics)

    def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """The one version."""
        return description.index(self._version, ready=not self.draining, only_ready=request.ready)

    def _check_target(self, target: str | None, model: str, version: str) -> None:
        """Raises unless the call is for this version.

        The gateway names its choice in the metadata; the request's own version may then be a
        label, which a host knows nothing about.
        """
        if target is not None:
            if target != self._target:
                raise VersionNotServing(
                    f"this host serves {self._target}, not {target}", version=target
                )
        elif model != self._version.model or (version and version != self._number):
            raise self._unknown(model, version)

    def _unknown(self, model: str, version: str) -> ModelyardError:
        if model != self._version.model:
            return ModelNotFound(f"Request for unknown model: '{model}' is not found", model=model)
        return VersionNotFound(
            f"Request for unknown model: '{model}' version {version} is not found",
            model=model,
            version=version,
        )


def _datatype(name: str, array: Array) -> str:
    try:
        return datatype_of(array)
    except InvalidTensor as error:
        raise InvalidTensor(f"input {name!r}: {error.message}", tensor=name) from None


def _deadline(now: int, remaining: float | None, request: pb.ModelInferRequest) -> int | None:
    """When the call's time is over: its own deadline, or its parameter `timeout` if sooner."""
    deadline = None if remaining is None else now + int(remaining * 1e9)
    if request.parameters and "timeout" in request.parameters:
        timeout = request.parameters["timeout"]
        choice = timeout.WhichOneof("parameter_choice")
        if choice not in ("int64_param", "uint64_param"):
            raise InvalidArgument("the parameter 'timeout' is not an integer (microseconds)")
        microseconds = getattr(timeout, choice)
        if microseconds > 0:
            given = now + microseconds * 1000
            deadline = given if deadline is None else min(deadline, given)
    return deadline
