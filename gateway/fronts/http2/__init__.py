"""The front that speaks HTTP/2 by itself, in the process that answers.

`frames` is HTTP/2 as bytes, `parser` takes them apart, `fields` reads headers. `connection` is one
caller's; `stream` is one request of it: `unary` of the hot method, `conversation` any other.
`application` answers them; `http1` is REST for who speaks HTTP/1.1; `front` listens, drains, and
puts them together. Specification: RFC 9113 (HTTP/2), RFC 7541 (HPACK).
"""
