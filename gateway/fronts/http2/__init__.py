"""The front that speaks HTTP/2 by itself, in the process that answers.

`frames` is HTTP/2 as bytes; `fields` its headers; `connection` one caller's connection and `stream`
one request of it; `application` answers; `http1` is REST for who speaks HTTP/1.1; `front` listens,
drains, and puts them together. Specification: RFC 9113 (HTTP/2), RFC 7541 (HPACK).
"""
