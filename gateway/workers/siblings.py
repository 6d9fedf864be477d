"""The other processes behind the same port, as a worker sees them.

What is asked of the gateway as a whole, any worker answers: it asks the others. A sequence lives
in the worker that its name gives, and any other one hands its calls on.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc

from gateway import envelope
from gateway.call import Answer, Answerer, Call
from gateway.control import CatchUp
from gateway.figures import Figures, heard
from gateway.lanes.failures import failure
from gateway.plan import Kind
from gateway.sequences import Sequence
from gateway.stack import Service
from gateway.workers.group import Group
from modelyard.calls import answer
from modelyard.channels import open_channel
from modelyard.errors import HostGone, SequenceLost
from modelyard.gateway.v1 import worker_service_pb2 as pb
from modelyard.gateway.v1 import worker_service_pb2_grpc as pb_grpc
from modelyard.names import ModelName, VersionName, is_version_number

# Set by the Envoy before the workers: above 1 where a worker went before it had answered.
ATTEMPTS: Final = "x-envoy-attempt-count"
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
# Of a question, in seconds: who is busy for longer is left out.
_PATIENCE: Final = 1.0


class Siblings:
    """The other processes.

    Args:
        group: All of them.
        max_message_bytes: Of one request or response.
        clock: Seconds, monotonic; the clock of every deadline.
        default_deadline: Seconds that a call of a model has whose caller gives none.
    """

    def __init__(
        self,
        group: Group,
        max_message_bytes: int,
        clock: Callable[[], float],
        default_deadline: Callable[[str], float],
    ) -> None:
        self._group = group
        self._clock = clock
        self._default_deadline = default_deadline
        others = {i: s for i, s in enumerate(group.sockets) if i != group.index}
        self._channels = [open_channel(socket) for socket in others.values()]
        self._stubs = [pb_grpc.WorkerServiceStub(channel) for channel in self._channels]
        lanes = {
            i: open_channel(s, pool_index=1, max_message_bytes=max_message_bytes, retries=False)
            for i, s in others.items()
        }
        self._channels += lanes.values()
        self._infer: dict[int, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {
            i: channel.unary_unary(_INFER) for i, channel in lanes.items()
        }

    async def figures(self, model: str) -> list[Figures]:
        """What each of those that answer knows and has counted."""
        asked = pb.GetFiguresRequest(model=model)

        async def one(stub: "pb_grpc.WorkerServiceAsyncStub") -> list[Figures]:
            try:
                return [heard(await stub.GetFigures(asked, timeout=_PATIENCE))]
            except grpc.aio.AioRpcError:
                return []

        answers = await asyncio.gather(*(one(stub) for stub in self._stubs))
        return [figures for answer in answers for figures in answer]

    def catching_up(self, own: CatchUp) -> CatchUp:
        """Waits for all: after a change the caller's next call may reach any of them."""

        async def other(
            stub: "pb_grpc.WorkerServiceAsyncStub", revision: int, timeout: float
        ) -> bool:
            try:
                await stub.AwaitRevision(
                    pb.AwaitRevisionRequest(revision=revision), timeout=timeout
                )
            except grpc.aio.AioRpcError as error:
                # Who is gone comes back with what is newest then.
                return error.code() is grpc.StatusCode.UNAVAILABLE
            return True

        async def all_of_them(revision: int, timeout: float) -> bool:
            others = (other(stub, revision, timeout) for stub in self._stubs)
            return all(await asyncio.gather(own(revision, timeout), *others))

        return all_of_them

    def handing_on(self, service: Service) -> Service:
        """The same service, but for calls of sequences that live in another process.

        Outermost: who answers a call counts and records it.
        """

        async def hand_on(call: Call) -> Answer:
            sequence = call.sequence
            if sequence is None:
                return await service(call)
            if not sequence.start and _is_repeated(call):
                raise _lost(call, sequence, "was under way when its process ended")
            owner = self._group.owner(call.model, sequence.id)
            if owner == self._group.index:
                return await service(call)
            return await self._ask(owner, call, sequence)

        return hand_on

    async def _ask(self, owner: int, call: Call, sequence: Sequence) -> Answer:
        until = call.deadline
        if until is None:
            until = self._clock() + self._default_deadline(call.model)
        while True:
            remaining = max(until - self._clock(), 0.0)
            # One that is being started again is waited for: it knows what it has lost, and nobody
            # else does.
            asked = self._infer[owner](
                call.payload, timeout=remaining, metadata=call.metadata, wait_for_ready=True
            )
            try:
                payload = await answer(asked)
            except grpc.aio.AioRpcError as error:
                lost = failure(
                    error.code().value[0], error.details() or "", error.trailing_metadata() or ()
                )
                if not isinstance(lost, HostGone):
                    raise lost from None
            else:
                return Answer(payload, _answerer(call.model, payload), Kind.PRIMARY)
            # It went with the call. What begins a sequence begins it anew.
            if not sequence.start:
                raise _lost(call, sequence, "lived in a process that is gone")

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))


def _is_repeated(call: Call) -> bool:
    return any(key == ATTEMPTS and value != "1" for key, value in call.metadata)


def _lost(call: Call, sequence: Sequence, why: str) -> SequenceLost:
    return SequenceLost(
        f"sequence {sequence.id} of '{call.model}' {why}: its first call sets sequence_start",
        model=call.model,
        sequence=str(sequence.id),
    )


def _answerer(model: str, payload: bytes) -> Answerer:
    """Who answered; requests and responses begin with the same fields."""
    version = envelope.read(payload).version
    if is_version_number(version):
        return VersionName(model, int(version))
    return ModelName(model)
