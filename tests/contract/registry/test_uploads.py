"""Uploads to a registry, whole, broken and wrong."""

from collections.abc import Iterator

import grpc
import pytest

from modelyard.registry.v1 import artifact_service_pb2 as artifacts
from modelyard.registry.v1 import (
    model_pb2,
)
from modelyard.registry.v1 import registry_service_pb2 as pb
from tests.kit.registry_client import PATIENCE, Client, digest_of, refusal, wait_until


def test_an_upload_goes_on_after_a_broken_stream(client: Client) -> None:
    content = bytes(range(256)) * 1000
    digest, size, sent = digest_of(content), len(content), 100_000

    def begun() -> Iterator[artifacts.WriteBlobRequest]:
        yield artifacts.WriteBlobRequest(digest=digest, size_bytes=size, data=content[:60_000])
        yield artifacts.WriteBlobRequest(offset=60_000, data=content[60_000:sent])
        # The stream must break off while the server waits for more.
        wait_until(lambda: client.committed(digest) == (sent, False))
        call.cancel()

    call = client.artifacts.WriteBlob.future(begun(), timeout=PATIENCE)
    with pytest.raises(grpc.FutureCancelledError):
        call.result()

    offset, complete = client.committed(digest)
    assert (offset, complete) == (sent, False), "what came stays, and is not taken for the whole"
    rest = artifacts.WriteBlobRequest(
        digest=digest, size_bytes=size, offset=offset, data=content[offset:]
    )
    told = client.artifacts.WriteBlob(iter([rest]), timeout=PATIENCE)
    assert (told.committed_bytes, told.complete) == (size, True)
    assert client.download(digest) == content


def test_one_who_waits_to_write_and_gives_up_frees_nothing(client: Client) -> None:
    """Two write one file; the second leaves while the first still writes, and a third comes."""
    content = b"so that the digest is its own" * 1000
    digest, size = digest_of(content), len(content)
    first = artifacts.WriteBlobRequest(digest=digest, size_bytes=size, data=content[:1000])

    def whole() -> Iterator[artifacts.WriteBlobRequest]:
        yield first
        wait_until(lambda: client.committed(digest) == (1000, False))
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                client.artifacts.WriteBlob(iter([first]), timeout=0.5)
            # With an answer it would have written beside the one who holds the file.
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        yield artifacts.WriteBlobRequest(offset=1000, data=content[1000:])

    assert client.artifacts.WriteBlob(whole(), timeout=PATIENCE).complete
    assert client.download(digest) == content


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (artifacts.WriteBlobRequest(digest="md5:0", size_bytes=1, data=b"a"), "digest"),
        (artifacts.WriteBlobRequest(digest=digest_of(b"a"), size_bytes=-1), "size_bytes"),
        (artifacts.WriteBlobRequest(digest=digest_of(b"a"), size_bytes=1, data=b"ab"), "data"),
    ],
)
def test_a_wrong_upload_names_its_field(
    client: Client, request_: artifacts.WriteBlobRequest, field: str
) -> None:
    refused = refusal(client.artifacts.WriteBlob, iter([request_]))
    assert (refused.reason, refused.metadata["field"]) == ("INVALID_ARGUMENT", field)
    assert client.committed(digest_of(b"a")) == (0, False)


@pytest.mark.parametrize("second", ["model.onnx/x", "x" * 300])
def test_paths_that_no_folder_can_hold_are_refused(
    client: Client, file: model_pb2.File, model: str, second: str
) -> None:
    other = client.upload(b"another file", second)
    refused = refusal(
        client.registry.RegisterVersion, pb.RegisterVersionRequest(model=model, files=[file, other])
    )
    assert refused.reason == "INVALID_ARTIFACT", refused
