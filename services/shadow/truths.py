"""Truths that come later are joined with the answers that they are about."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from modelyard.events.v1 import event_pb2
from services.shadow.findings import Findings
from services.shadow.observation import Arrays, Observation
from services.shadow.read import truths_of

# Among answers that wait: whose it is that the caller got.
LIVE = 0


class Awaiting(Protocol):
    """Answers that wait for their truth."""

    async def put(
        self, request_id: str, answers: Mapping[int, bytes], parts: Sequence[tuple[str, str]]
    ) -> bytes | None:
        """Keeps the serialized answers to a request: `LIVE`'s, and each candidate's.

        Returns:
            The serialized truth, where it came before them.
        """
        ...

    async def early(self, request_id: str, truth: bytes) -> None:
        """Keeps a serialized truth whose answers are not there yet."""
        ...

    async def get(
        self, request_id: str
    ) -> tuple[Mapping[int, Arrays], Sequence[tuple[str, str]]] | None:
        """The outputs of each, and the parts; None where they are not known, or no longer."""
        ...

    async def forget(self, request_ids: Iterable[str]) -> None:
        """Lets go of answers whose truth is taken in, and kept."""
        ...


class Truths:
    """Joins truths and answers, whichever comes first, and each truth once.

    Args:
        awaiting: Keeps answers until their truth comes.
        findings: What an evaluation has learnt; truths are taken in there.
    """

    def __init__(self, awaiting: Awaiting, findings: Findings) -> None:
        self._awaiting = awaiting
        self._findings = findings
        # Taken in, and not kept yet.
        self._joined: set[str] = set()

    async def expect(self, seen: Observation) -> None:
        """Has the answers to a request wait for its truth, or takes it in if it is there."""
        replies = {n: reply.raw for n, reply in seen.candidates.items() if reply.raw}
        if seen.baseline is None or not replies:
            return
        first = next(iter(self._findings.evidence.values()))
        answers = {LIVE: seen.answer, **replies}
        truth = await self._awaiting.put(seen.request_id, answers, first.where(seen))
        if truth is not None and seen.request_id not in self._joined:
            # Told through another gateway, or so soon that it overtook its call in the log.
            self._findings.tally.unmatched -= 1
            await self.learn(event_pb2.Event.FromString(truth))

    async def learn(self, event: event_pb2.Event) -> None:
        """Joins a truth with the answers that wait for it."""
        tally = self._findings.tally
        request_id = event.feedback.request_id
        held = None
        if request_id not in self._joined:
            held = await self._awaiting.get(request_id)
        if held is None:
            tally.unmatched += 1
            if request_id not in self._joined:
                await self._awaiting.early(request_id, event.SerializeToString())
            return
        answers, parts = held
        truths, fitted = truths_of(event), False
        for number, evidence in self._findings.evidence.items():
            if number in answers:
                fitted |= evidence.judge(truths, answers[LIVE], answers[number], parts)
        if fitted:
            self._joined.add(request_id)
        tally.labelled += fitted
        tally.unmatched += not fitted

    async def kept(self) -> None:
        """What was taken in is kept: its answers are let go of."""
        await self._awaiting.forget(self._joined)
        self._joined.clear()
