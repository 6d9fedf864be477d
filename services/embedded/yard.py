"""Models in the caller's own process: what `modelyard.client` does over the network, by a call."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from numpy.typing import ArrayLike

from gateway.call import Call
from gateway.fronts.calls import call_of
from gateway.fronts.metadata import forwarded, provenance
from modelyard.client import inference
from modelyard.client.connection import MetadataLike, Seconds, pairs, seconds, texts
from modelyard.client.inference import Inference, Parameter, VersionLike
from modelyard.client.steps import Reply
from modelyard.errors import FailedPrecondition
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.interceptors import as_ours
from services.embedded.core import DEADLINE, Core
from services.embedded.models import Loaded, load
from services.inference.host import cpus
from services.inference.host.session import SessionSettings

T = TypeVar("T")

Files: TypeAlias = "Mapping[str, Path | str]"

_INFER = "/inference.GRPCInferenceService/ModelInfer"


class _Calls:
    """What both yards do with a call, on the loop of their core."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._closed = False
        self._under_way = 0
        self._idle = asyncio.Event()

    async def infer(
        self, payload: bytes, timeout: float | None, metadata: MetadataLike | None
    ) -> Inference:
        """One call, from its serialized request on."""
        if self._closed:
            raise FailedPrecondition("the yard is closed")
        passed, request_id = forwarded(pairs(metadata))
        self._under_way += 1
        try:
            call: Call = call_of(payload, timeout, passed, request_id, self.core.clock())
            answer = await self.core.service(call)
        except Exception as error:  # As over the wire: a stranger's error becomes Internal.
            raise as_ours(error, _INFER, passed) from error.__cause__
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        message = oip.ModelInferResponse.FromString(answer.payload)
        return inference.answer(Reply(message, texts(provenance(answer, request_id))))

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

    def _core(self, models: Sequence[Loaded]) -> Core:
        # The caller of the program sees each error; a log of the same would say it twice.
        return Core(models, self._threads, access_log="none")

    def _request(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        version: VersionLike,
        outputs: Sequence[str] | None,
        request_id: str | None,
        parameters: Mapping[str, Parameter] | None,
    ) -> bytes:
        message = inference.request(
            model,
            inputs,
            version=version,
            outputs=outputs,
            request_id=request_id,
            parameters=parameters,
        )
        return message.SerializeToString()

    def _limit(self, deadline: Seconds | None) -> float | None:
        return self._timeout if deadline is None else seconds(deadline)


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
        payload = self._request(model, inputs, version, outputs, request_id, parameters)
        calls = self._calls or await self._open()
        return await calls.infer(payload, self._limit(deadline), metadata)

    async def metadata(self, model: str, version: VersionLike = None) -> oip.ModelMetadataResponse:
        """What a model takes and gives.

        As `Yard.metadata`.
        """
        calls = await self._open()
        return calls.core.metadata(model, inference.version_text(version))

    async def close(self) -> None:
        """Takes no call any more, and returns when those under way have ended."""
        if self._opening is not None:
            await (await self._opening).close()

    async def _open(self) -> _Calls:
        if self._opening is None:
            self._opening = asyncio.create_task(self._made())
        # Who gives up does not take the models from the others that wait for them.
        return await asyncio.shield(self._opening)

    async def _made(self) -> _Calls:
        models = await asyncio.to_thread(self._load)
        self._calls = _Calls(self._core(models))
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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="modelyard", daemon=True
        )
        self._thread.start()
        self._calls = self._run(self._made(loaded))

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
        payload = self._request(model, inputs, version, outputs, request_id, parameters)
        return self._run(self._calls.infer(payload, self._limit(deadline), metadata))

    def metadata(self, model: str, version: VersionLike = None) -> oip.ModelMetadataResponse:
        """What a model takes and gives: names, datatypes and shapes (-1 where a size varies).

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version.
        """
        return self._calls.core.metadata(model, inference.version_text(version))

    def close(self) -> None:
        """Takes no call any more, and returns when those under way have ended."""
        if self._loop.is_closed():
            return
        self._run(self._calls.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _made(self, models: Sequence[Loaded]) -> _Calls:
        return _Calls(self._core(models))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Has the loop's thread do it, and waits."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise FailedPrecondition("the yard is closed") from None
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise
        except BaseException:  # Such as KeyboardInterrupt: nobody waits for it any more.
            future.cancel()
            raise
