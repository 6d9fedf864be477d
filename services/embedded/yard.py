"""Models in the caller's own process: what `modelyard.client` does over the network, by a call."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from gateway.call import Metadata
from gateway.envelope import Envelope
from gateway.fronts.metadata import forwarded
from modelyard import cpus
from modelyard.client import inference
from modelyard.client.connection import MetadataLike, Seconds, pairs, seconds
from modelyard.client.inference import Inference, Parameter, VersionLike
from modelyard.errors import FailedPrecondition, InvalidArgument, ModelyardError
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.interceptors import as_ours
from modelyard.names import VersionName
from services.embedded.core import DEADLINE, Core
from services.embedded.lane import Held
from services.embedded.models import Loaded, load
from services.embedded.turns import Turns
from services.inference.host.session import SessionSettings

Files: TypeAlias = "Mapping[str, Path | str]"

_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call as it was made, with what the stack wants to know of it."""

    head: Envelope
    held: Held
    timeout: float
    metadata: Metadata
    request_id: str


class _Calls:
    """What both yards do with a call, on the loop of their core."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._closed = False
        self._under_way = 0
        self._idle = asyncio.Event()

    async def infer(self, asked: _Asked) -> Inference:
        """One call."""
        if self._closed:
            raise FailedPrecondition("the yard is closed")
        self._under_way += 1
        try:
            answer = await self.core.infer(
                asked.head, asked.held, asked.timeout, asked.metadata, asked.request_id
            )
        except Exception as error:  # As over the wire: a stranger's error becomes Internal.
            raise as_ours(error, _INFER, asked.metadata) from error.__cause__
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        by, outputs = answer.served_by, asked.held.answer
        assert isinstance(by, VersionName), "no route, no constant"
        assert outputs is not None, "answered"
        return Inference(outputs, by, str(answer.attempt), asked.head.id or asked.request_id, {})

    async def close(self) -> None:
        """Takes no call any more, and returns when those under way have ended."""
        self._closed = True
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()
        await self.core.close()


class _Described:
    """What both yards are told, and know of their models."""

    def __init__(
        self,
        models: Files,
        *,
        timeout: Seconds | None = None,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self._files = {name: Path(path) for name, path in models.items()}
        self._timeout = DEADLINE if timeout is None else seconds(timeout)
        self._threads = threads or cpus.available()
        self._providers = tuple(providers)

    def _load(self) -> tuple[Loaded, ...]:
        return load(self._files, SessionSettings(self._threads, self._providers))

    def _made(self, models: Sequence[Loaded]) -> Core:
        # The caller of the program sees each error; a log of the same would say it twice.
        return Core(models, self._threads, access_log="none")

    def _ask(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        version: VersionLike,
        outputs: Sequence[str] | None,
        deadline: Seconds | None,
        request_id: str | None,
        parameters: Mapping[str, Parameter] | None,
        metadata: MetadataLike | None,
    ) -> _Asked:
        head = Envelope(model, inference.version_text(version), request_id or "")
        if parameters:
            head.parameters = dict(parameters)
            for key, value in parameters.items():
                inference.check_parameter(key, value)
            if type(head.parameters.get("timeout", 0)) is not int:
                raise InvalidArgument(
                    "the parameter 'timeout' is not an integer (microseconds)", field="timeout"
                )
        held = Held({name: np.asarray(values) for name, values in inputs.items()}, outputs or ())
        timeout = self._timeout if deadline is None else seconds(deadline)
        assert timeout is not None, "one of both was given"
        return _Asked(head, held, timeout, *forwarded(pairs(metadata)))


class AsyncYard(_Described):
    """`Yard` for asyncio: the same arguments, results and errors, on the running loop.

    It belongs to the event loop that first uses it. Models are loaded by `async with`, or by the
    first call, in a thread of their own. A call that is cancelled stops its run.

    Example:
        >>> async with AsyncYard({"digits": "digits.onnx"}) as yard:
        ...     answer = await yard.infer("digits", {"X": np.zeros((1, 64), np.float32)})

    Args:
        models: As `Yard`.
        timeout: As `Yard`.
        threads: As `Yard`.
        providers: As `Yard`.
    """

    _calls: _Calls | None = None
    _opening: "asyncio.Task[_Calls] | None" = None
    _closed = False

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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

        As `Yard.infer`.
        """
        asked = self._ask(
            model, inputs, version, outputs, deadline, request_id, parameters, metadata
        )
        calls = self._calls or await self._open()
        return await calls.infer(asked)

    async def metadata(self, model: str, version: VersionLike = None) -> oip.ModelMetadataResponse:
        """What a model takes and gives.

        As `Yard.metadata`.
        """
        calls = await self._open()
        return calls.core.metadata(model, inference.version_text(version))

    async def close(self) -> None:
        """Takes no call any more, and returns when those under way have ended."""
        self._closed = True
        if self._opening is not None:
            with suppress(ModelyardError):  # Its callers were told why it never opened.
                await (await self._opening).close()

    async def _open(self) -> _Calls:
        if self._opening is None:
            if self._closed:
                raise FailedPrecondition("the yard is closed")
            self._opening = asyncio.create_task(self._opened())
        # Who gives up does not take the models from the others that wait for them.
        return await asyncio.shield(self._opening)

    async def _opened(self) -> _Calls:
        models = await asyncio.to_thread(self._load)
        self._calls = _Calls(self._made(models))
        return self._calls


class Yard(_Described):
    """Models in this process, called as through `modelyard.Client`, without a socket.

    The same deadlines, limits, statistics and errors as behind `modelyard serve`: the same code
    runs. One yard may be used by many threads. After a fork, make a new one.

    Example:
        >>> with Yard({"digits": "digits.onnx"}) as yard:
        ...     answer = yard.infer("digits", {"X": np.zeros((1, 64), np.float32)}, deadline=0.2)
        ...     answer["probabilities"], answer.served_by

    Args:
        models: Model files by name; a file, or a folder of one model with its external data.
        timeout: Seconds that a call without a deadline of its own may take; 30 when None.
        threads: Of onnxruntime in each model, and runs of it at a time where they are long; as
            many as the processors that this process may use when None.
        providers: Execution providers of onnxruntime, the preferred first.

    Raises:
        InvalidArtifact: A file is not there, or is no model that can be served.
        InvalidName: A name is none.
        InvalidArgument: An execution provider is not available here.
    """

    def __init__(
        self,
        models: Files,
        *,
        timeout: Seconds | None = None,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        super().__init__(models, timeout=timeout, threads=threads, providers=providers)
        loaded = self._load()
        self._turns = Turns()
        self._calls = self._turns.run(self._opened(loaded))
        self._core = self._calls.core

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            version: 1, `"live"` or None: there is no other one.
            outputs: The names of the wanted outputs; all of them when None.
            deadline: Seconds, or a timedelta, that the call may take.
            request_id: Your id of the request; it comes back in the answer.
            parameters: Request parameters of the protocol.
            metadata: Such as `modelyard-priority`.

        Returns:
            The outputs by name as read-only arrays, and who served them.

        Raises:
            InvalidTensor: A name, dtype, shape or size does not fit the model.
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version.
            LabelNotFound: It has no such label.
            DeadlineExceeded: The deadline passed first; the run is stopped.
            Overloaded: Too many calls wait; `retry_after` says when to come back.
            FailedPrecondition: The yard is closed.
        """
        asked = self._ask(
            model, inputs, version, outputs, deadline, request_id, parameters, metadata
        )
        try:
            return self._turns.run(
                self._calls.infer(asked), lambda: self._calls.core.has_room(model)
            )
        except RuntimeError:
            raise FailedPrecondition("the yard is closed") from None

    def metadata(self, model: str, version: VersionLike = None) -> oip.ModelMetadataResponse:
        """What a model takes and gives: names, datatypes and shapes (-1 where a size varies).

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version.
        """
        return self._core.metadata(model, inference.version_text(version))

    def close(self) -> None:
        """Takes no call any more, and returns when those under way have ended."""
        with suppress(FailedPrecondition):  # It is closed already.
            self._turns.run(self._calls.close())
        self._turns.close()

    async def _opened(self, models: Sequence[Loaded]) -> _Calls:
        return _Calls(self._made(models))
