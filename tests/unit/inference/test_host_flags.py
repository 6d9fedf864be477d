"""A host's flags: each wrong one is named with its value."""

import pytest

from services.inference.host.settings import parse

GIVEN = {
    "--model": "m",
    "--version": "1",
    "--artifact": "/models/m.onnx",
    "--digest": "sha256:" + "0" * 64,
    "--listen": "127.0.0.1:0",
}


def flags(**changed: str) -> list[str]:
    given = GIVEN | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return [word for flag in given.items() for word in flag]


def test_what_is_right_is_taken() -> None:
    settings = parse(flags(metrics_port="65535", listen="[::1]:65535", version=str(2**63 - 1)))
    assert (settings.metrics_port, settings.version.number) == (65535, 2**63 - 1)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("metrics_port", "65536"),
        ("metrics_port", "-1"),
        ("listen", "127.0.0.1:65536"),
        ("listen", "127.0.0.1:http"),
        ("listen", "8001"),
        ("listen", "unix:"),
        ("frames", "127.0.0.1:1"),
        ("threads", "2147483648"),
        ("threads", "9" * 5000),
        ("threads", "\u0661"),
        ("version", "0"),
        ("model", "a/b"),
        ("digest", "sha256:0"),
        ("drain_grace", "inf"),
        ("drain_grace", "nan"),
        ("providers", "A,,B"),
    ],
)
def test_what_is_wrong_is_named(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(flags(**{flag: value}))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"--{flag.replace('_', '-')}" in said
    assert value[-30:] in said
