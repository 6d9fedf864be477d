"""Takes out of calls and truths what must not be stored, before it is stored anywhere. Pure.

Rules are a YAML list; each names where it holds and what it does::

    - models: ["credit-*"]          # patterns; all models unless given
      inputs: {name: drop, ssn: hash}
      outputs: {explanation: drop}
      metadata: {authorization: drop, x-user: hash}

`drop` takes a metadata entry out, and of a tensor its contents: name, datatype and shape stay, its
elements become zeros, or empty texts, so that the row can still be read. `hash` puts an
HMAC-SHA256 with the yard's key in place of a text (metadata, and each element of BYTES tensors), so
that the same value can be told again but not read; a number cannot be hashed and is dropped.
A payload that cannot be read is dropped as a whole: what is in it cannot be known.
"""

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from modelyard.client.codec import decode, encode
from modelyard.errors import InvalidArgument, InvalidTensor
from modelyard.events.calls import Facts, Payload
from modelyard.events.v1 import event_pb2
from modelyard.inference.v2 import open_inference_pb2 as oip

Act: TypeAlias = Literal["drop", "hash"]
_ACTS = ("drop", "hash")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is taken out of the events of some models."""

    models: tuple[str, ...] = ("*",)
    inputs: Mapping[str, Act] = field(default_factory=dict)
    outputs: Mapping[str, Act] = field(default_factory=dict)
    metadata: Mapping[str, Act] = field(default_factory=dict)


def parse(tree: Any) -> tuple[Rule, ...]:
    """Reads rules; raises InvalidArgument, naming the field."""
    if tree is None:
        return ()
    if not isinstance(tree, list):
        raise InvalidArgument(f"redaction: a list of rules, not {tree!r}", field="redaction")
    return tuple(_rule(f"redaction[{index}]", held) for index, held in enumerate(tree))


def _rule(where: str, held: Any) -> Rule:
    if not isinstance(held, dict):
        raise InvalidArgument(f"{where}: a mapping, not {held!r}", field=where)
    unknown = set(held) - {"models", "inputs", "outputs", "metadata"}
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise InvalidArgument(
            f"{where}.{name}: unknown; a rule has models, inputs, outputs, metadata",
            field=f"{where}.{name}",
        )
    models = held.get("models", ["*"])
    if not isinstance(models, list) or not all(isinstance(m, str) for m in models):
        raise InvalidArgument(f"{where}.models: a list of patterns", field=f"{where}.models")
    acts: dict[str, dict[str, Act]] = {}
    for part in ("inputs", "outputs", "metadata"):
        told = held.get(part) or {}
        if not isinstance(told, dict):
            raise InvalidArgument(f"{where}.{part}: a mapping", field=f"{where}.{part}")
        for name, act in told.items():
            if act not in _ACTS:
                raise InvalidArgument(
                    f"{where}.{part}.{name}: {act!r} is neither drop nor hash",
                    field=f"{where}.{part}.{name}",
                )
        acts[part] = {str(name): act for name, act in told.items()}
    metadata = {name.lower(): act for name, act in acts["metadata"].items()}
    return Rule(tuple(models), acts["inputs"], acts["outputs"], metadata)


class Redaction:
    """Applies rules to calls and truths.

    Args:
        rules: All of them; each that fits a model holds for it, and `drop` over `hash`.
        key: Of the hashes.
    """

    def __init__(self, rules: Sequence[Rule], key: bytes) -> None:
        if not key and any("hash" in _acts(rule) for rule in rules):
            raise InvalidArgument("redaction: to hash takes a key", field="redaction_key")
        self._rules = tuple(rules)
        self._key = key
        self._known: dict[str, Rule | None] = {}

    def __call__(self, facts: Facts) -> Facts:
        """A call without what must not be stored."""
        rule = self._rule_of(facts.model)
        if rule is None:
            return facts
        request, response = facts.request, facts.response
        if rule.inputs and isinstance(request, bytes):
            request = _rewritten(request, oip.ModelInferRequest, self._inputs(rule.inputs))
        if rule.outputs and isinstance(response, bytes) and facts.answer is not None:
            response = _rewritten(response, oip.ModelInferResponse, self._outputs(rule.outputs))
        metadata = tuple(self._metadata(rule.metadata, facts.metadata))
        return facts._replace(metadata=metadata, request=request, response=response)

    def truths(self, event: event_pb2.Event) -> None:
        """Takes the truths out of an event that must not be stored."""
        rule = self._rule_of(event.model.removeprefix("models/"))
        if rule is None:
            return
        for name in [name for name in event.feedback.truths if name in rule.outputs]:
            del event.feedback.truths[name]

    def _rule_of(self, model: str) -> Rule | None:
        """All rules that fit a model, as one."""
        if model not in self._known:
            merged = Rule((), {}, {}, {})
            fitting = [r for r in self._rules if any(fnmatchcase(model, p) for p in r.models)]
            for part in ("inputs", "outputs", "metadata"):
                acts: dict[str, Act] = {}
                for rule in fitting:
                    for name, act in getattr(rule, part).items():
                        acts[name] = "drop" if "drop" in (act, acts.get(name)) else act
                object.__setattr__(merged, part, acts)
            self._known[model] = merged if fitting else None
        return self._known[model]

    def _metadata(
        self, acts: Mapping[str, Act], metadata: Iterable[tuple[str, str | bytes]]
    ) -> Iterator[tuple[str, str | bytes]]:
        for key, value in metadata:
            match acts.get(key.lower()):
                case None:
                    yield key, value
                case "hash" if isinstance(value, str):
                    yield key, self._hash(value)

    def _inputs(self, acts: Mapping[str, Act]) -> Callable[[Any], None]:
        return lambda message: self._tensors(acts, message.inputs, message.raw_input_contents)

    def _outputs(self, acts: Mapping[str, Act]) -> Callable[[Any], None]:
        return lambda message: self._tensors(acts, message.outputs, message.raw_output_contents)

    def _tensors(self, acts: Mapping[str, Act], tensors: Any, raw: Any) -> None:
        for index, tensor in enumerate(tensors):
            act = acts.get(tensor.name)
            if act is None:
                continue
            if raw:
                raw[index] = self._contents(act, tensor, raw[index])
            elif act == "hash" and tensor.datatype == "BYTES":
                hashed = [self._hash_bytes(e) for e in tensor.contents.bytes_contents]
                tensor.contents.bytes_contents[:] = hashed
            else:
                _blank(tensor)
            # A tensor's own parameters may tell what its contents no longer do.
            tensor.parameters.clear()

    def _contents(self, act: Act, tensor: Any, raw: bytes) -> bytes:
        if tensor.datatype == "BYTES":
            array = decode("BYTES", tensor.shape, raw)
            elements = [
                self._hash_bytes(bytes(element)) if act == "hash" else b""
                for element in array.reshape(-1)
            ]
            changed = np.empty(len(elements), dtype=object)
            changed[:] = elements
            return encode(changed)
        return b"\0" * len(raw)

    def _hash(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _hash_bytes(self, element: bytes) -> bytes:
        return hmac.new(self._key, element, hashlib.sha256).hexdigest().encode()


def _acts(rule: Rule) -> set[str]:
    return {*rule.inputs.values(), *rule.outputs.values(), *rule.metadata.values()}


def _rewritten(payload: bytes, kind: Any, change: Callable[[Any], None]) -> Payload:
    try:
        message = kind.FromString(payload)
        change(message)
    except (DecodeError, InvalidTensor, IndexError):
        return Payload(None, len(payload), redacted=True)
    changed = message.SerializeToString()
    return Payload(changed, len(changed), redacted=True)


def _blank(tensor: Any) -> None:
    """Typed contents of zeros."""
    count = math.prod(tensor.shape)
    for field_, _ in tensor.contents.ListFields():
        zero: object = b"" if field_.name == "bytes_contents" else 0
        held = getattr(tensor.contents, field_.name)
        held[:] = [zero] * min(count, len(held))
