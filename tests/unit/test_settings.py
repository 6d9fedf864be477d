"""Settings: which source wins, and what is said of a wrong value."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from gateway.settings import GatewaySettings
from modelyard.settings import Listed, ServerSettings, config, load


class Settings(ServerSettings):
    """A room's settings, whose environment belongs to these tests."""

    model_config = config("settings_test")

    name: str = Field("default", description="Some text.")
    schemes: Listed = Field(("https",), description="A list.")


class Needy(ServerSettings):
    """Settings with a field that has no default."""

    model_config = config("settings_test")

    registry: str = Field(description="An address.")


def _file(folder: Path, text: str | bytes, name: str = "settings.yaml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def _refused(
    capsys: pytest.CaptureFixture[str], *argv: str, kind: type[ServerSettings] = Settings
) -> list[str]:
    """The lines of what is said of wrong settings, which end the process with 2."""
    with pytest.raises(SystemExit) as ended:
        load(kind, argv)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(Settings, []).name == "default"
    file = _file(tmp_path, "name: file")
    assert load(Settings, ["--config", file]).name == "file"
    monkeypatch.setenv("MODELYARD_SETTINGS_TEST_NAME", "environment")
    assert load(Settings, ["--config", file]).name == "environment"
    assert load(Settings, ["--config", file, "--name", "flag"]).name == "flag"
    assert load(Settings, ["--name", "flag"]).name == "flag"


def test_each_source_gives_the_fields_that_those_above_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path, "name: file\ndrain_grace: 1\ndrain_propagation: 1")
    monkeypatch.setenv("MODELYARD_SETTINGS_TEST_DRAIN_GRACE", "2")
    monkeypatch.setenv("MODELYARD_SETTINGS_TEST_DRAIN_PROPAGATION", "2")
    settings = load(Settings, ["--drain-propagation", "3", "--config", file])
    assert settings.name == "file"
    assert settings.drain_grace == 2
    assert settings.drain_propagation == 3
    assert settings.log_level == "INFO"


@pytest.mark.parametrize("flag", [["--config", "{}"], ["--config={}"]])
def test_the_file_is_named_in_either_form(tmp_path: Path, flag: list[str]) -> None:
    file = _file(tmp_path, "name: file")
    assert load(Settings, [part.format(file) for part in flag]).name == "file"


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    settings = load(Settings, ["--config", _file(tmp_path, "")])
    assert settings.model_dump() == load(Settings, []).model_dump()


def test_the_environment_of_another_room_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_GATEWAY_NAME", "gateway")
    monkeypatch.setenv("NAME", "nobody")
    assert load(Settings, []).name == "default"


def test_a_list_comes_from_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(tmp_path, "schemes: [s3, gs]")
    assert load(Settings, ["--config", file]).schemes == ("s3", "gs")
    monkeypatch.setenv("MODELYARD_SETTINGS_TEST_SCHEMES", "https, file")
    assert load(Settings, ["--config", file]).schemes == ("https", "file")
    assert load(Settings, ["--schemes", "abfs,s3"]).schemes == ("abfs", "s3")


WRONG = [
    ("drain_grace", "5s"),
    ("drain_grace", ""),
    ("drain_grace", "-1"),
    ("drain_grace", "nan"),
    ("drain_propagation", "-0.1"),
    ("max_connection_age", "soon"),
    ("max_message_bytes", "0"),
    ("max_message_bytes", "1.5"),
    ("max_message_bytes", "64MB"),
    ("listen", "nowhere"),
    ("listen", "127.0.0.1:http"),
    ("metrics_listen", "metrics"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_flag_is_named_with_its_value(
    capsys: pytest.CaptureFixture[str], field: str, value: str
) -> None:
    (line,) = _refused(capsys, f"--{field.replace('_', '-')}={value}")
    assert line.startswith(f"{field} {value!r}: ")


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_variable_is_named_with_its_value(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    value: str,
) -> None:
    monkeypatch.setenv(f"MODELYARD_SETTINGS_TEST_{field.upper()}", value)
    (line,) = _refused(capsys)
    assert line.startswith(f"{field} {value!r}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drain_grace: soon", "drain_grace 'soon': "),
        ("drain_grace: -1", "drain_grace -1: "),
        ("max_message_bytes: 1.5", "max_message_bytes 1.5: "),
        ("insecure: 7", "insecure 7: "),
        ("listen: 5", "listen 5: "),
        ("name: [a]", "name ['a']: "),
        ("drain_graze: 1", "drain_graze 1: "),
    ],
)
def test_a_wrong_line_of_the_file_is_named_with_its_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    (line,) = _refused(capsys, "--config", _file(tmp_path, text))
    assert line.startswith(said)


def test_every_fault_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _refused(capsys, "--drain-grace", "x", "--max-message-bytes", "y")
    assert sorted(line.partition(":")[0] for line in lines) == [
        "drain_grace 'x'",
        "max_message_bytes 'y'",
    ]


def test_an_unknown_flag_is_named_with_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--lisen 127.0.0.1:1" in _refused(capsys, "--lisen", "127.0.0.1:1")[-1]


def test_a_flag_is_never_guessed_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--drain-gra 1" in _refused(capsys, "--drain-gra", "1")[-1]


def test_a_missing_field_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _refused(capsys, kind=Needy)
    assert line.startswith("registry: ")


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_a_missing_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, form: list[str]
) -> None:
    path = str(tmp_path / "missing.yaml")
    (line,) = _refused(capsys, *(part.format(path) for part in form))
    assert line == f"--config {path!r}: no such file"


def test_a_folder_is_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (line,) = _refused(capsys, "--config", str(tmp_path))
    assert line == f"--config {str(tmp_path)!r}: no such file"


def test_config_without_a_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _refused(capsys, "--name", "a", "--config")
    assert line.startswith("--config: ")


def test_a_file_that_is_no_yaml_is_named_with_the_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = _file(tmp_path, "name: a\ndrain_grace: [1")
    said = "\n".join(_refused(capsys, "--config", path))
    assert path in said
    assert "line 2" in said


@pytest.mark.parametrize(
    "text",
    ["- name\n- listen", "name", "name = 'toml'", b"name: \xff", "1: a", "name: 2024-13-45"],
    ids=["list", "text", "toml", "not utf-8", "number", "no date"],
)
def test_a_file_that_holds_no_fields_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | bytes
) -> None:
    path = _file(tmp_path, text)
    (line,) = _refused(capsys, "--config", path)
    assert line.startswith(f"--config {path!r}: ")


def test_a_field_of_the_file_is_named_as_it_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (line,) = _refused(capsys, "--config", _file(tmp_path, "drain-grace: 3"))
    assert line.startswith("drain-grace 3: ")


@pytest.mark.parametrize("listen", ["0.0.0.0:8001", "[::]:8001", ":8001", "10.1.2.3:1", "yard:1"])
def test_an_address_beyond_loopback_needs_tls_or_a_word(
    capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    (line,) = _refused(capsys, "--listen", listen)
    assert line.startswith(f"listen {listen!r} ")
    assert "--insecure" in line
    assert load(Settings, ["--listen", listen, "--insecure"]).listen == listen
    tls = load(Settings, ["--listen", listen, "--tls-cert", "c.pem", "--tls-key", "k.pem"])
    assert tls.listen == listen


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "127.8.9.1:1", "[::1]:8001", "localhost:8001", "unix:/run/yard"]
)
def test_loopback_and_sockets_need_no_tls(listen: str) -> None:
    assert load(Settings, ["--listen", listen]).credentials() is None


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_half_of_a_pair_is_refused(capsys: pytest.CaptureFixture[str], half: str) -> None:
    (line,) = _refused(capsys, f"--{half.replace('_', '-')}=x.pem")
    assert "tls_cert" in line
    assert "tls_key" in line


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_rooms_own_durations_end(capsys: pytest.CaptureFixture[str], value: str) -> None:
    with pytest.raises(SystemExit):
        load(GatewaySettings, ["--registry", "unix:/r", f"--first-view={value}"])
    assert f"first_view '{value}': " in capsys.readouterr().err


def test_who_may_call_is_said_of_tls_only(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _refused(capsys, "--tls-client-ca", "ca.pem")
    assert line.startswith("tls_client_ca 'ca.pem': ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("log_level", "LOUD"),
        ("log_level", "10"),
        ("listen", "127.0.0.1:65536"),  # grpc would take it modulo 65536
        ("listen", "127.0.0.1:²"),
        ("listen", "8001"),
        ("listen", ""),
        ("metrics_listen", "unix:/run/metrics"),
        ("metrics_listen", "127.0.0.1:65536"),
        ("max_connection_age", "inf"),
        ("max_connection_age", "2147484"),
        ("drain_grace", "inf"),
        ("drain_grace", "1e300"),
        ("drain_propagation", "inf"),
        ("max_message_bytes", str(1 << 31)),
        ("max_message_bytes", str(1 << 32)),
    ],
)
def test_what_no_server_can_do_is_refused(
    capsys: pytest.CaptureFixture[str], field: str, value: str
) -> None:
    (line,) = _refused(capsys, f"--{field.replace('_', '-')}={value}")
    assert line.startswith(f"{field} {value!r}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("log_level", "debug"),
        ("listen", "127.0.0.1:65535"),
        ("metrics_listen", ""),
        ("metrics_listen", ":8002"),
        ("max_connection_age", 2147483.0),
        ("drain_grace", 2147483.0),
        ("max_message_bytes", (1 << 31) - 1),
    ],
)
def test_what_a_server_can_do_is_taken(field: str, value: object) -> None:
    settings = load(Settings, [f"--{field.replace('_', '-')}={value}"])
    assert getattr(settings, field) == value


def test_a_certificate_that_is_missing_is_named(tmp_path: Path) -> None:
    cert, key = str(tmp_path / "c.pem"), str(tmp_path / "k.pem")
    settings = load(Settings, ["--tls-cert", cert, "--tls-key", key])
    with pytest.raises(FileNotFoundError) as missing:
        settings.credentials()
    assert missing.value.filename in (cert, key)


def test_settings_never_change() -> None:
    settings = load(Settings, [])
    with pytest.raises(ValidationError, match="frozen"):
        settings.name = "other"
    assert settings.name == "default"
