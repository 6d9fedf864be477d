"""The client for asyncio: the same methods, awaited.

Past 300 lines: a method for each thing that a yard does, most of it what its user should know.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from modelyard.calls import answer, stop
from modelyard.client import evaluations, inference, reads, writes
from modelyard.client.connection import (
    OPTIONS,
    MetadataLike,
    Seconds,
    Tls,
    address_or_default,
    pairs,
    seconds,
    texts,
    typed,
)
from modelyard.client.inference import Inference, Parameter, VersionLike
from modelyard.client.steps import (
    Blocking,
    Metadata,
    OnProgress,
    Program,
    Reply,
    Sleep,
    Step,
    Unary,
    Upload,
)
from modelyard.client.writes import Registration
from modelyard.errors import ModelyardError
from modelyard.gateway.v1 import gateway_service_pb2 as gateway
from modelyard.gateway.v1 import route_pb2
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import LIVE
from modelyard.registry.v1 import change_pb2, host_pb2, model_pb2
from modelyard.shadow.v1 import evaluation_pb2, report_pb2, shadow_service_pb2

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same arguments, results and errors.

    It belongs to the event loop that first calls it. A cancelled call is cancelled at the yard.

    Example:
        >>> async with AsyncClient("127.0.0.1:8001") as client:
        ...     answer = await client.infer("digits", {"X": np.zeros((1, 64), np.float32)})

    Args:
        address: `host:port` or `unix:/path`; `$MODELYARD_ADDRESS`, else `127.0.0.1:8001`.
        tls: Encrypts the connection.
        timeout: Seconds that an inference without a deadline of its own may take; None leaves it
            to the model's route.
        metadata: Sent with every call.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tls: Tls | None = None,
        timeout: Seconds | None = None,
        metadata: MetadataLike | None = None,
    ) -> None:
        self.address = address_or_default(address)
        self._timeout = seconds(timeout)
        self._metadata = pairs(metadata)
        self._credentials = None if tls is None else tls.credentials()
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls under way fail with Cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: VersionLike = None,
        outputs: Sequence[str] | None = None,
        deadline: Seconds | None = None,
        request_id: str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        metadata: MetadataLike | None = None,
    ) -> Inference:
        """Calls a model once.

        As `Client.infer`.
        """
        message = inference.request(
            model,
            inputs,
            version=version,
            outputs=outputs,
            request_id=request_id,
            parameters=parameters,
        )
        timeout = self._timeout if deadline is None else seconds(deadline)
        return inference.answer(
            await self._unary(Unary(reads.MODEL_INFER, message, timeout, pairs(metadata)))
        )

    async def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, ArrayLike]] | AsyncIterable[Mapping[str, ArrayLike]],
        *,
        version: VersionLike = None,
        outputs: Sequence[str] | None = None,
        deadline: Seconds | None = None,
        metadata: MetadataLike | None = None,
    ) -> AsyncIterator[Inference]:
        """Calls a model once for each item over one stream, and gives the answers in order.

        As `Client.stream`.
        """
        requests = (
            inference.request(model, item, version=version, outputs=outputs)
            async for item in _each(inputs)
        )
        method = reads.MODEL_STREAM_INFER
        call = self._open().stream_stream(
            method.path,
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        answers = call(
            requests,
            timeout=seconds(deadline),
            metadata=(*self._metadata, *pairs(metadata), inference.REAL_ERRORS),
        )
        try:
            async for message in answers:
                inference.check(message)
                yield inference.answer(Reply(message.infer_response, {}))
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        finally:
            stop(answers)

    async def metadata(self, model: str, version: VersionLike = None) -> oip.ModelMetadataResponse:
        """What a model takes and gives: names, datatypes and shapes (-1 where a size varies).

        As `Client.metadata`.
        """
        return await self._run(reads.metadata(model, version))

    async def ready(self, model: str | None = None, version: VersionLike = None) -> bool:
        """Whether the yard, or one of its models, can answer inference calls."""
        return await self._run(reads.ready(model, version))

    async def models(self) -> list[model_pb2.Model]:
        """Every model with its labels, by name."""
        return await self._run(reads.models())

    async def model(self, model: str) -> model_pb2.Model:
        """One model with its labels; raises ModelNotFound."""
        return await self._run(reads.model(model))

    async def versions(self, model: str) -> list[model_pb2.Version]:
        """Every version of a model, the newest first; raises ModelNotFound."""
        return await self._run(reads.versions(model))

    async def version(self, model: str, version: int) -> model_pb2.Version:
        """One version: signature, files, provenance, metadata; raises VersionNotFound."""
        return await self._run(reads.version(writes.version_name(model, version)))

    async def hosts(self, model: str | None = None) -> list[host_pb2.Host]:
        """The processes that serve a model, or all models, each with its state and the reason."""
        return await self._run(reads.hosts_of(model))

    async def history(
        self, model: str | None = None, *, limit: int = 100
    ) -> list[change_pb2.Change]:
        """The latest changes of a model, or of all, the newest first."""
        return await self._run(reads.history(model, limit))

    async def status(self) -> gateway.GetStatusResponse:
        """The gateway's revision, how old its knowledge is, and its replicas."""
        return await self._run(reads.status())

    async def traffic(self, interval: Seconds = 1.0) -> AsyncIterator[gateway.WatchTrafficResponse]:
        """The traffic by version, once an interval (in seconds), until you stop iterating."""
        request = gateway.WatchTrafficRequest()
        request.interval.FromTimedelta(timedelta(seconds=seconds(interval) or 1.0))
        method = reads.WATCH_TRAFFIC
        call = self._open().unary_stream(
            method.path,
            request_serializer=gateway.WatchTrafficRequest.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        answers = call(request, metadata=self._metadata)
        try:
            async for message in answers:
                yield message
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        finally:
            stop(answers)

    async def register(
        self,
        model: str,
        path: Path | str,
        label: str | None = None,
        golden: Path | str | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        note: str = "",
        allow_duplicate: bool = False,
        wait: bool = False,
        timeout: Seconds | None = None,
        progress: OnProgress | None = None,
    ) -> Registration:
        """Uploads an ONNX file and registers it as the model's next version.

        As `Client.register`.
        """
        return await self._run(
            writes.register(
                model,
                Path(path),
                label=label,
                golden=None if golden is None else Path(golden),
                metadata=metadata,
                note=note,
                allow_duplicate=allow_duplicate,
                wait=wait,
                timeout=seconds(timeout),
                progress=progress,
            )
        )

    async def label(
        self,
        model: str,
        label: str,
        version: int,
        *,
        etag: str = "",
        immediate: bool = False,
        note: str = "",
        timeout: Seconds | None = None,
    ) -> model_pb2.Label:
        """Points a label at a version; where it is being served, when the new version serves too.

        As `Client.label`.
        """
        return await self._run(
            writes.move_label(
                writes.version_name(model, version),
                label,
                etag=etag,
                immediate=immediate,
                note=note,
                timeout=seconds(timeout),
            )
        )

    async def rollback(
        self,
        model: str,
        label: str = LIVE,
        *,
        etag: str = "",
        immediate: bool = False,
        note: str = "",
        timeout: Seconds | None = None,
    ) -> model_pb2.Label:
        """Points a label back at the version before; again, at the one before that.

        As `Client.rollback`.
        """
        return await self._run(
            writes.roll_back(
                model,
                label,
                etag=etag,
                immediate=immediate,
                note=note,
                timeout=seconds(timeout),
            )
        )

    async def remove_label(self, model: str, label: str, *, etag: str = "", note: str = "") -> None:
        """Removes a label; raises LabelNotFound, StaleEtag, VersionInUse."""
        await self._run(writes.remove_label(model, label, etag=etag, note=note))

    async def route(self, model: str) -> route_pb2.Route:
        """A model's route: the default one where none was set; raises ModelNotFound."""
        return await self._run(reads.route(model))

    async def replace_route(
        self, model: str, route: route_pb2.Route, *, validate_only: bool = False, note: str = ""
    ) -> route_pb2.Route:
        """Replaces a model's route; one with an etag only where the route still has that.

        As `Client.replace_route`.
        """
        return await self._run(
            writes.replace_route(model, route, validate_only=validate_only, note=note)
        )

    async def remove_route(self, model: str, *, etag: str = "", note: str = "") -> None:
        """Goes back to the default route."""
        await self._run(writes.remove_route(model, etag=etag, note=note))

    async def explain(
        self,
        model: str,
        version: VersionLike = None,
        *,
        metadata: Mapping[str, str] | None = None,
        deadline: Seconds | None = None,
        route: route_pb2.Route | None = None,
    ) -> gateway.ExplainRouteResponse:
        """The plan that a call would get now, or would get by another route, unmade.

        Args:
            model: The model's name.
            version: What the call would name.
            metadata: What it would send along.
            deadline: In seconds; the route's unless given.
            route: Tried instead of the one that holds.
        """
        return await self._run(
            reads.explain(model, version, metadata or {}, seconds(deadline), route)
        )

    async def curves(self, model: str) -> gateway.GetCurvesResponse:
        """The share of attempts that have answered by each moment, for each version."""
        return await self._run(reads.curves(model))

    async def suggest(
        self, model: str, *, deadline: Seconds, miss: float = 0.001, versions: Sequence[int] = ()
    ) -> gateway.SuggestRendezvousResponse:
        """A rendezvous that leaves at most a share `miss` of calls without an answer in time.

        Args:
            model: The model's name.
            deadline: In seconds.
            miss: A share, such as 0.001.
            versions: The preferred first; the newest first unless given.
        """
        limit = seconds(deadline) or 0.0
        return await self._run(reads.suggest(model, limit, miss, versions))

    async def load(
        self,
        model: str,
        version: int,
        *,
        wait: bool = False,
        note: str = "",
        timeout: Seconds | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        """Asks for hosts of a version that no label points at, and waits for one if asked to.

        As `Client.load`.
        """
        await self._run(
            writes.load(
                writes.version_name(model, version),
                wait=wait,
                note=note,
                timeout=seconds(timeout),
                progress=progress,
            )
        )

    async def unload(self, model: str, version: int, *, note: str = "") -> None:
        """Takes `load` back; a version that a label points at stays. Raises VersionNotFound."""
        await self._run(writes.unload(writes.version_name(model, version), note=note))

    async def delete(self, model: str, version: int, *, note: str = "") -> None:
        """Deletes a version.

        As `Client.delete`.
        """
        await self._run(writes.delete(writes.version_name(model, version), note=note))

    async def start_evaluation(
        self,
        model: str,
        candidates: Sequence[int | str],
        *,
        baseline: int | str = LIVE,
        plan: evaluation_pb2.Plan | None = None,
        note: str = "",
    ) -> evaluation_pb2.Evaluation:
        """Starts to replay sampled requests on candidates, beside a baseline.

        Args:
            model: The model's name.
            candidates: Version numbers, or labels, which stand for what they point at now.
            baseline: The same.
            plan: How to go about it; every request and the usual gates when None.
            note: Why.

        Raises:
            InvalidArgument: A part of the plan does not fit; named.
            NotFound: There is no such model, version or label.
        """
        return await self._run(evaluations.start(model, candidates, baseline, plan, note))

    async def stop_evaluation(self, name: str) -> evaluation_pb2.Evaluation:
        """Stops an evaluation; what it found is kept. Raises EvaluationNotFound."""
        return await self._run(evaluations.stop(name))

    async def evaluations(self, model: str | None = None) -> list[evaluation_pb2.Evaluation]:
        """The evaluations of one model, or of all; the latest first."""
        return await self._run(evaluations.evaluations(model))

    async def report(self, name: str) -> report_pb2.Report:
        """What an evaluation has found so far. Raises EvaluationNotFound."""
        return await self._run(evaluations.report(name))

    async def reports(self, name: str) -> AsyncIterator[report_pb2.Report]:
        """What an evaluation has found, again whenever that changes, until it has ended."""
        method = evaluations.WATCH_REPORT
        call = self._open().unary_stream(
            method.path,
            request_serializer=shadow_service_pb2.WatchReportRequest.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        answers = call(shadow_service_pb2.WatchReportRequest(name=name), metadata=self._metadata)
        try:
            async for message in answers:
                yield message.report
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        finally:
            stop(answers)

    async def feedback(self, model: str, request_id: str, truths: Mapping[str, Any]) -> str:
        """Writes down what the outputs of an earlier call should have been.

        Args:
            model: The model's name.
            request_id: As the call's answer told it.
            truths: By output, a value a row: `{"label": [7]}`; None for a row not known.

        Returns:
            The id of the event in the log.

        Raises:
            FailedPrecondition: The yard keeps no event log.
        """
        return await self._run(evaluations.feedback(model, request_id, truths))

    async def _run(self, program: Program[T]) -> T:
        result: Any = None
        failure: ModelyardError | None = None
        while True:
            try:
                step = program.send(result) if failure is None else program.throw(failure)
            except StopIteration as end:
                value: T = end.value
                return value
            result = failure = None
            try:
                result = await self._do(step)
            except ModelyardError as error:
                failure = error

    async def _do(self, step: Step) -> object:
        match step:
            case Unary():
                return await self._unary(step)
            case Upload():
                return await self._upload(step)
            case Blocking():
                return await asyncio.to_thread(step.function)
            case Sleep():
                await asyncio.sleep(step.seconds)
                return None

    async def _unary(self, step: Unary) -> Reply[Any]:
        path = step.method.path
        method = self._calls.get(path)
        if method is None:
            method = self._calls[path] = self._open().unary_unary(
                path,
                request_serializer=type(step.request).SerializeToString,
                response_deserializer=step.method.response.FromString,
            )
        call = method(step.request, timeout=step.timeout, metadata=self._with(step.metadata))
        try:
            message = await answer(call)
            trailing = await call.trailing_metadata()
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        return Reply(message, texts(trailing))

    async def _upload(self, step: Upload) -> object:
        method: Any = self._open().stream_unary(
            step.method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=step.method.response.FromString,
        )
        call = method(_off_the_loop(step.requests), metadata=self._metadata)
        try:
            return await call
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        finally:
            stop(call)

    def _with(self, metadata: Metadata) -> Metadata:
        return (*self._metadata, *metadata) if metadata else self._metadata

    def _open(self) -> grpc.aio.Channel:
        # At the first call, when there is a loop for it.
        if self._channel is None:
            self._channel = (
                grpc.aio.insecure_channel(self.address, OPTIONS)
                if self._credentials is None
                else grpc.aio.secure_channel(self.address, self._credentials, OPTIONS)
            )
        return self._channel


async def _off_the_loop(messages: Iterator[Message]) -> AsyncIterator[Message]:
    """Reads files in a thread, a piece at a time."""
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
