"""Lists, page by page: a token is the key after which the next page begins."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, TypeVar

from modelyard.errors import InvalidArgument, InvalidPageToken

T = TypeVar("T")

PAGE, LARGEST_PAGE = 100, 1000


def falling(number: int) -> str:
    """A key that sorts greater numbers first."""
    return f"{10**18 - number:019d}"


def page_of(items: Sequence[T], keys: Sequence[str], request: Any) -> tuple[Sequence[T], str]:
    """One page of sorted items, and the token of the next: the key after which it begins.

    Raises:
        InvalidArgument: The page's size is negative.
        InvalidPageToken: The token is none, or one of another list (AIP-158).
    """
    size = request.page_size
    if size < 0:
        raise InvalidArgument(f"page_size {size}: not negative", field="page_size")
    size = min(size or PAGE, LARGEST_PAGE)
    begin = 0
    scope = f"{request.DESCRIPTOR.name}/{getattr(request, 'parent', '')}/"
    if request.page_token:
        try:
            after = base64.urlsafe_b64decode(request.page_token.encode()).decode()
        except (binascii.Error, UnicodeError):
            raise InvalidPageToken(f"page_token {request.page_token!r}") from None
        if not after.startswith(scope):
            raise InvalidPageToken(f"page_token {request.page_token!r}")
        begin = sum(key <= after.removeprefix(scope) for key in keys)
    page = items[begin : begin + size]
    if begin + size >= len(items):
        return page, ""
    last = keys[begin + size - 1]
    return page, base64.urlsafe_b64encode(f"{scope}{last}".encode()).decode()
