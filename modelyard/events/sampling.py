"""Which requests a sample holds: the same for everyone who asks."""

from hashlib import blake2b


def share_of(request_id: str) -> float:
    """Where in [0, 1) a request lies: those below a rate are what a sample of that rate holds.

    So what a shadow samples is a part of what the tap recorded, whichever is larger.
    """
    digest = blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
