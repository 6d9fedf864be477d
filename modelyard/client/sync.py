"""The client that blocks.

Past 300 lines: a method for each thing that a yard does, most of it what its user should know.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from numpy.typing import ArrayLike

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


class Client:
    """A yard, or any server of the Open Inference Protocol, by its address.

    One client may be used by many threads. Every method raises the errors of
    `modelyard.errors`: `HostGone` where nobody answers at the address, `InvalidName` where a name
    is none, and those that it lists itself.

    Example:
        >>> with Client("127.0.0.1:8001") as client:
        ...     answer = client.infer("digits", {"X": np.zeros((1, 64), np.float32)})
        ...     answer["probabilities"], answer.served_by

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
        self._channel = (
            grpc.insecure_channel(self.address, OPTIONS)
            if tls is None
            else grpc.secure_channel(self.address, tls.credentials(), OPTIONS)
        )
        self._calls: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls under way fail with Cancelled."""
        self._channel.close()

    def infer(
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

        Args:
            model: Its name, such as `digits`.
            inputs: Arrays by input name, each of the shape and dtype that the model's signature
                tells (see `metadata`); strings and bytes go as BYTES. Values that are no array
                become one as `np.asarray` sees fit, so floats become float64.
            version: A number, a label such as `"canary"`, or None for what the route says.
            outputs: The names of the wanted outputs; all of them when None.
            deadline: Seconds, or a timedelta, that the call may take.
            request_id: Your id of the request; it comes back in the answer.
            parameters: Request parameters of the protocol.
            metadata: Sent with this call, after the client's own.

        Returns:
            The outputs by name as read-only arrays, and who served them.

        Raises:
            InvalidTensor: A name, dtype, shape or size does not fit the model.
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version.
            LabelNotFound: It has no such label.
            VersionNotServing: The version exists, and no host serves it now.
            DeadlineExceeded: The deadline passed first.
            Overloaded: Every replica's queue is full; `retry_after` says when to come back.
            MessageTooLarge: The request is larger than the yard accepts.
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
            self._unary(Unary(reads.MODEL_INFER, message, timeout, pairs(metadata)))
        )

    def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, ArrayLike]],
        *,
        version: VersionLike = None,
        outputs: Sequence[str] | None = None,
        deadline: Seconds | None = None,
        metadata: MetadataLike | None = None,
    ) -> Iterator[Inference]:
        """Calls a model once for each item over one stream, and gives the answers in order.

        Arguments and errors are those of `infer`; the deadline is the whole stream's. The first
        error ends the stream.
        """
        requests = (
            inference.request(model, item, version=version, outputs=outputs) for item in inputs
        )
        method = reads.MODEL_STREAM_INFER
        call = self._channel.stream_stream(
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
            for message in answers:
                inference.check(message)
                yield inference.answer(Reply(message.infer_response, {}))
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        finally:
            answers.cancel()

    def metadata(self, model: str, version: VersionLike = None) -> oip.ModelMetadataResponse:
        """What a model takes and gives: names, datatypes and shapes (-1 where a size varies).

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version.
        """
        return self._run(reads.metadata(model, version))

    def ready(self, model: str | None = None, version: VersionLike = None) -> bool:
        """Whether the yard, or one of its models, can answer inference calls."""
        return self._run(reads.ready(model, version))

    def models(self) -> list[model_pb2.Model]:
        """Every model with its labels, by name."""
        return self._run(reads.models())

    def model(self, model: str) -> model_pb2.Model:
        """One model with its labels; raises ModelNotFound."""
        return self._run(reads.model(model))

    def versions(self, model: str) -> list[model_pb2.Version]:
        """Every version of a model, the newest first; raises ModelNotFound."""
        return self._run(reads.versions(model))

    def version(self, model: str, version: int) -> model_pb2.Version:
        """One version: signature, files, provenance, metadata; raises VersionNotFound."""
        return self._run(reads.version(writes.version_name(model, version)))

    def hosts(self, model: str | None = None) -> list[host_pb2.Host]:
        """The processes that serve a model, or all models, each with its state and the reason."""
        return self._run(reads.hosts_of(model))

    def history(self, model: str | None = None, *, limit: int = 100) -> list[change_pb2.Change]:
        """The latest changes of a model, or of all, the newest first."""
        return self._run(reads.history(model, limit))

    def status(self) -> gateway.GetStatusResponse:
        """The gateway's revision, how old its knowledge is, and its replicas."""
        return self._run(reads.status())

    def traffic(self, interval: Seconds = 1.0) -> Iterator[gateway.WatchTrafficResponse]:
        """The traffic by version, once an interval (in seconds), until you stop iterating."""
        request = gateway.WatchTrafficRequest()
        request.interval.FromTimedelta(timedelta(seconds=seconds(interval) or 1.0))
        method = reads.WATCH_TRAFFIC
        call = self._channel.unary_stream(
            method.path,
            request_serializer=gateway.WatchTrafficRequest.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        answers = call(request, metadata=self._metadata)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        finally:
            answers.cancel()

    def register(
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

        Files that the model keeps tensors in are found by their names in it and go along. Only
        what the registry does not hold yet is sent, and an upload that breaks off goes on where it
        was. The same files again give the version that they are already.

        Args:
            model: The model's name; its first version makes the model.
            path: The .onnx file.
            label: Points this label at the version: at once where the label is new, and where it
                is being served only when the new version serves too. None makes a model's first
                version `live` and leaves others without a label.
            golden: An .npz of arrays `in.NAME` and `out.NAME` that each host proves first.
            metadata: What to keep beside the version, such as `{"git_commit": "..."}`.
            note: Why, for the history.
            allow_duplicate: Makes a new version even when the same files are one.
            wait: Returns when the version serves; one without a label is loaded for it.
            timeout: Seconds for the check, the label and the wait, each; 600 when None.
            progress: Is told how far it is.

        Raises:
            InvalidArtifact: A file is missing, or the registry cannot serve such a model.
            VersionNotServing: Its hosts failed, with the reason of one, or time was over; the
                version stays registered.
        """
        return self._run(
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

    def label(
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

        Args:
            model: The model's name.
            label: The label; it is made when there is none.
            version: The version's number.
            etag: Where given, moves the label only if it still has this etag; `"0"` only if there
                is no such label yet.
            immediate: Moves at once, whether or not the version serves.
            note: Why, for the history.
            timeout: Seconds to wait for the version to serve; 600 when None.

        Raises:
            VersionNotFound: The model has no such version.
            StaleEtag: Someone moved the label meanwhile.
            VersionNotServing: The version's hosts failed; the label stays where it was.
            DeadlineExceeded: Time was over first; the label stays where it was.
        """
        return self._run(
            writes.move_label(
                writes.version_name(model, version),
                label,
                etag=etag,
                immediate=immediate,
                note=note,
                timeout=seconds(timeout),
            )
        )

    def rollback(
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

        Raises:
            LabelNotFound: The model has no such label.
            NoHistory: There is no version before.
            StaleEtag: Someone moved the label meanwhile.
        """
        return self._run(
            writes.roll_back(
                model,
                label,
                etag=etag,
                immediate=immediate,
                note=note,
                timeout=seconds(timeout),
            )
        )

    def remove_label(self, model: str, label: str, *, etag: str = "", note: str = "") -> None:
        """Removes a label; raises LabelNotFound, StaleEtag, VersionInUse."""
        self._run(writes.remove_label(model, label, etag=etag, note=note))

    def route(self, model: str) -> route_pb2.Route:
        """A model's route: the default one where none was set; raises ModelNotFound."""
        return self._run(reads.route(model))

    def replace_route(
        self, model: str, route: route_pb2.Route, *, validate_only: bool = False, note: str = ""
    ) -> route_pb2.Route:
        """Replaces a model's route; one with an etag only where the route still has that.

        Raises:
            InvalidRoute: A value is out of its range, or a version or label does not exist.
            StaleEtag: Someone replaced the route meanwhile.
        """
        return self._run(writes.replace_route(model, route, validate_only=validate_only, note=note))

    def remove_route(self, model: str, *, etag: str = "", note: str = "") -> None:
        """Goes back to the default route."""
        self._run(writes.remove_route(model, etag=etag, note=note))

    def explain(
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
        return self._run(reads.explain(model, version, metadata or {}, seconds(deadline), route))

    def curves(self, model: str) -> gateway.GetCurvesResponse:
        """The share of attempts that have answered by each moment, for each version."""
        return self._run(reads.curves(model))

    def suggest(
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
        return self._run(reads.suggest(model, limit, miss, versions))

    def load(
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

        Raises:
            VersionNotFound: The model has no such version.
            VersionNotServing: Its hosts failed, with the reason of one, or `timeout` (seconds;
                600 when None) was over.
        """
        self._run(
            writes.load(
                writes.version_name(model, version),
                wait=wait,
                note=note,
                timeout=seconds(timeout),
                progress=progress,
            )
        )

    def unload(self, model: str, version: int, *, note: str = "") -> None:
        """Takes `load` back; a version that a label points at stays. Raises VersionNotFound."""
        self._run(writes.unload(writes.version_name(model, version), note=note))

    def delete(self, model: str, version: int, *, note: str = "") -> None:
        """Deletes a version.

        Raises:
            VersionInUse: A label or a route points at it, or a host serves it.
        """
        self._run(writes.delete(writes.version_name(model, version), note=note))

    def start_evaluation(
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
        return self._run(evaluations.start(model, candidates, baseline, plan, note))

    def stop_evaluation(self, name: str) -> evaluation_pb2.Evaluation:
        """Stops an evaluation; what it found is kept. Raises EvaluationNotFound."""
        return self._run(evaluations.stop(name))

    def evaluations(self, model: str | None = None) -> list[evaluation_pb2.Evaluation]:
        """The evaluations of one model, or of all; the latest first."""
        return self._run(evaluations.evaluations(model))

    def report(self, name: str) -> report_pb2.Report:
        """What an evaluation has found so far. Raises EvaluationNotFound."""
        return self._run(evaluations.report(name))

    def reports(self, name: str) -> Iterator[report_pb2.Report]:
        """What an evaluation has found, again whenever that changes, until it has ended."""
        method = evaluations.WATCH_REPORT
        call = self._channel.unary_stream(
            method.path,
            request_serializer=shadow_service_pb2.WatchReportRequest.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        answers = call(shadow_service_pb2.WatchReportRequest(name=name), metadata=self._metadata)
        try:
            for message in answers:
                yield message.report
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        finally:
            answers.cancel()

    def feedback(self, model: str, request_id: str, truths: Mapping[str, Any]) -> str:
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
        return self._run(evaluations.feedback(model, request_id, truths))

    def _run(self, program: Program[T]) -> T:
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
                result = self._do(step)
            except ModelyardError as error:
                failure = error

    def _do(self, step: Step) -> object:
        match step:
            case Unary():
                return self._unary(step)
            case Upload():
                return self._upload(step)
            case Blocking():
                return step.function()
            case Sleep():
                time.sleep(step.seconds)
                return None

    def _unary(self, step: Unary) -> Reply[Any]:
        path = step.method.path
        call = self._calls.get(path)
        if call is None:
            call = self._calls[path] = self._channel.unary_unary(
                path,
                request_serializer=type(step.request).SerializeToString,
                response_deserializer=step.method.response.FromString,
            )
        try:
            message, done = call.with_call(
                step.request, timeout=step.timeout, metadata=self._with(step.metadata)
            )
        except grpc.RpcError as error:
            raise typed(error, self.address) from None
        return Reply(message, texts(done.trailing_metadata()))

    def _upload(self, step: Upload) -> object:
        call: Any = self._channel.stream_unary(
            step.method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=step.method.response.FromString,
        )
        try:
            return call(step.requests, metadata=self._metadata)
        except grpc.RpcError as error:
            raise typed(error, self.address) from None

    def _with(self, metadata: Metadata) -> Metadata:
        return (*self._metadata, *metadata) if metadata else self._metadata
