from __future__ import annotations

import base64
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.core.errors import SensorError, UsageError
from joulewise.meter import network
from joulewise.meter.network import Address, ask, ask_json, parse_address
from joulewise.meter.rails import UnansweredError
from tests.server import Instrument, Reply


@pytest.fixture
def server() -> Iterator[Instrument]:
    with Instrument() as server:
        yield server


def at(server: Instrument, path: str = "/x", **options: object) -> Address:
    return replace(parse_address(f"{server.url}{path}", "plug", ()), **options)  # type: ignore[arg-type]


def failure(address: Address) -> SensorError:
    with pytest.raises(SensorError) as caught:
        ask_json(address)
    assert "\n" not in str(caught.value)
    return caught.value


def test_options_of_ours_are_taken_out_and_the_rest_is_kept() -> None:
    address = parse_address(
        "http://plug.lan:81/cm?cmnd=Status%208&path=a.b&unit=W&insecure=1", "plug", ("path", "unit")
    )
    assert address.url == "http://plug.lan:81/cm?cmnd=Status%208"
    assert address.options == {"path": "a.b", "unit": "W"}
    assert address.insecure
    assert (address.shown, address.host) == ("http://plug.lan:81/cm", "plug.lan")


def test_option_may_hold_any_sign() -> None:
    address = parse_address('http://h/?query=sum(a{b="c"}) %2B 1+2', "prometheus", ("query",))
    assert address.options == {"query": 'sum(a{b="c"}) + 1+2'}


def test_blanks_in_an_address_are_sent_encoded(server: Instrument) -> None:
    server.pages["/cm?cmnd=Status%208"] = {"power": 1}
    assert ask_json(at(server, "/cm?cmnd=Status 8")) == {"power": 1}


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "192.168.1.5",
        "ftp://host/x",
        "file:///etc/passwd",
        "http://",
        "http://h:x/",
        "http://[::",
    ],
)
def test_no_address(argument: str) -> None:
    with pytest.raises(UsageError, match="write plug:http://HOST/PATH"):
        parse_address(argument, "plug", ())


@pytest.mark.parametrize(
    "argument",
    ["http://me:s3cret@h/", "http://h/cm?password=s3cret", "http://h/?api_key=s3cret"],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(argument: str) -> None:
    with pytest.raises(UsageError, match="set JOULEWISE_PLUG_USER and") as caught:
        parse_address(argument, "plug", ())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({"USER": "me", "PASSWORD": "s"}, f"Basic {base64.b64encode(b'me:s').decode()}"),
        ({"TOKEN": "t"}, "Bearer t"),
        ({}, None),
    ],
)
def test_credentials_come_from_the_environment(
    server: Instrument,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    sent: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"JOULEWISE_PLUG_{name}", value)
    server.pages["/x"] = {}
    ask_json(at(server))
    assert server.sent[-1].get("Authorization") == sent


def test_half_of_the_credentials(server: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEWISE_PLUG_USER", "me")
    with pytest.raises(UsageError, match="set both JOULEWISE_PLUG_USER and JOULEWISE_PLUG_PASS"):
        ask(at(server))


def test_password_does_not_cross_the_network_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEWISE_PLUG_TOKEN", "t")
    assert "in the clear" in str(failure(parse_address("http://192.0.2.1/", "plug", ())))


def test_proxies_are_not_used(server: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")
    server.pages["/x"] = [1]
    assert ask_json(at(server)) == [1]


def test_redirect_on_the_same_host_is_followed(server: Instrument) -> None:
    server.pages["/x"] = Reply(status=302, headers={"Location": "/y"})
    server.pages["/y"] = {"power": 3}
    assert ask_json(at(server)) == {"power": 3}


@pytest.mark.parametrize("there", ["http://192.0.2.1/y?token=t", "ftp://127.0.0.1/y"])
def test_redirect_elsewhere_is_refused(server: Instrument, there: str) -> None:
    server.pages["/x"] = Reply(status=301, headers={"Location": there})
    error = failure(at(server))
    assert "token" not in str(error)
    assert not isinstance(error, UnansweredError)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(status=401), "answers 401 .*set JOULEWISE_PLUG_USER"),
        (Reply(status=401, headers={"WWW-Authenticate": 'Digest realm="x"'}), "digest auth"),
        (Reply(status=404), "answers 404 Not Found; check the address"),
        (Reply(status=400, body='{"error": "parse error at char 3"}'), "400 .*parse error at char"),
        (Reply(body="<html>hello</html>"), "not answer in JSON but with '<html>hello</html>'"),
        (Reply(body="[" * 100_000), "not answer in JSON"),
        (Reply(body=b"\xff\xfe"), "not answer in JSON"),
    ],
)
def test_reply_that_no_second_try_mends(server: Instrument, reply: Reply, message: str) -> None:
    server.pages["/x"] = reply
    error = failure(at(server))
    assert not isinstance(error, UnansweredError)
    with pytest.raises(SensorError, match=message):
        raise error


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(status=503), "answers 503 .*wait until it works"),
        (Reply(body='{"power": 12', length=40), "broke off its reply"),
    ],
)
def test_reply_that_may_be_better_next_time(server: Instrument, reply: Reply, message: str) -> None:
    server.pages["/x"] = reply
    with pytest.raises(UnansweredError, match=message):
        ask(at(server))


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = failure(parse_address(f"http://127.0.0.1:{port}/", "plug", ()))
    assert isinstance(error, UnansweredError)
    assert "connection was refused" in str(error)


def test_no_such_host() -> None:
    error = failure(parse_address("http://no-such-host.invalid/", "plug", ()))
    assert "no host is called no-such-host.invalid" in str(error)


def test_silence_ends() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = parse_address(f"http://127.0.0.1:{mute.getsockname()[1]}/", "plug", ())
        with pytest.raises(UnansweredError, match=r"gave no reply within 0\.05 s"):
            ask(replace(address, timeout_s=0.05))


def test_https_to_a_server_without(server: Instrument) -> None:
    address = parse_address(f"https://127.0.0.1:{server.port}/", "plug", ())
    assert "does not speak TLS" in str(failure(address))


def test_reply_that_is_too_long(server: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MAX_REPLY_BYTES", 10)
    server.pages["/x"] = "1" * 11
    assert "more than" in str(failure(at(server)))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificate_is_checked_unless_the_user_says_otherwise(
    server: Instrument, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [str(shutil.which("openssl")), "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=bmc", "-keyout", key,
         "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server.speak_tls(certificate, key)
    server.pages["/x"] = {"power": 1}
    address = parse_address(f"{server.url}/x", "redfish", ())
    error = failure(address)
    assert "is not trusted" in str(error)
    assert "insecure=1" in str(error)
    assert not isinstance(error, UnansweredError)
    assert ask_json(parse_address(f"{server.url}/x?insecure=1", "redfish", ())) == {"power": 1}
