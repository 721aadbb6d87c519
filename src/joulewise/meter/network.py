"""Ask an instrument on the network: one GET, one reply, one clear line where that fails.

Why the standard library: a meter asks the same small question again and again, and the base install
stays light. Requests go straight to the named host, never through a proxy.

Invariants: an address holds no password, as names of meters are typed, listed by the system and
kept in records: credentials come from environment variables, and are sent in the clear only to this
machine or where ``insecure=1`` says so; no redirect leads to another host or from HTTPS to HTTP; a
reply is whole, is never longer than MAX_REPLY_BYTES and cannot drip in for ever.
"""

from __future__ import annotations

import base64
import functools
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import IO
from urllib.parse import SplitResult, quote, unquote, urlsplit

from joulewise.core.errors import SensorError, UsageError, one_line
from joulewise.meter.rails import UnansweredError

__all__ = ["MAX_REPLY_BYTES", "TIMEOUT_S", "Address", "ask", "ask_json", "parse_address"]

TIMEOUT_S = 5.0
"""Longest wait for a reply, s: a judgement; a BMC takes a second or two."""

MAX_REPLY_BYTES = 16 * 2**20
"""Longest reply: a judgement; a busy exporter's page has a few MiB."""

CHUNK_BYTES = 2**16

INSECURE = "insecure"
"""The option that accepts any certificate, and credentials in the clear."""

SECRETS = re.compile(
    r"user(name)?|pass(wd|word)?|(access_|api_?)?(token|key)|auth|secret", re.IGNORECASE
)
"""Names of parameters that are credentials."""

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP states after which the same request may succeed. Source: RFC 9110 section 15, RFC 6585."""

SAFE = "%/:?[]!$&'()*+,;=@~"
"""What may stand in an address as it is. Source: RFC 3986, sections 2.2 and 3.4."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an instrument is.

    Args:
        url: the address, without credentials and without our own options.
        variable: what the environment variables with its credentials begin with.
        options: our own options, decoded.
        insecure: accept any certificate, and send credentials in the clear.
        timeout_s: longest wait for a reply, s.
    """

    url: str
    variable: str
    options: Mapping[str, str] = field(default_factory=dict)
    insecure: bool = False
    timeout_s: float = TIMEOUT_S

    @property
    def shown(self) -> str:
        """Scheme, host and path: what may be printed and kept."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    @property
    def host(self) -> str:
        """The host, without its port."""
        return urlsplit(self.url).hostname or ""

    @property
    def path(self) -> str:
        """The path, "" or "/" where only a host is named."""
        return urlsplit(self.url).path

    def at(self, path: str) -> Address:
        """Return the address of another page of the same host.

        Args:
            path: path from the root, with its query.
        """
        parts = urlsplit(self.url)
        return replace(self, url=f"{parts.scheme}://{parts.netloc}{quote(path, safe=SAFE)}")


def parse_address(argument: str, meter: str, options: Collection[str]) -> Address:
    """Return the address in a meter's argument.

    Args:
        argument: ``http(s)://HOST[:PORT]/PATH?...``; of what follows the question mark, the names
            in `options` are ours and the rest is the instrument's.
        meter: name of the meter.
        options: names of our own options, besides ``insecure=1``.

    Raises:
        UsageError: it is no such address, or holds credentials.
    """
    page, _, query = argument.partition("?")
    pairs = [(unquote(pair.partition("=")[0]), pair) for pair in query.split("&") if pair]
    variable = f"JOULEWISE_{meter.upper()}"
    if "@" in _split(page, meter).netloc or any(SECRETS.fullmatch(name) for name, _ in pairs):
        raise UsageError(
            f"{meter}: others can see an address, so leave user and password out of it and set "
            f"{variable}_USER and {variable}_PASSWORD, or {variable}_TOKEN"
        )
    ours = {
        name: unquote(pair.partition("=")[2])
        for name, pair in pairs
        if name in options or name == INSECURE
    }
    theirs = "&".join(pair for name, pair in pairs if name not in ours)
    insecure = ours.pop(INSECURE, "0")
    if insecure not in ("0", "1"):
        raise UsageError(f"{meter}: insecure={insecure} is not understood; write insecure=1")
    return Address(
        url=quote(f"{page}?{theirs}" if theirs else page, safe=SAFE),
        variable=variable,
        options=ours,
        insecure=insecure == "1",
    )


def ask(address: Address) -> bytes:
    """Return what is at an address.

    Args:
        address: where.

    Raises:
        UnansweredError: there was no reply this time.
        SensorError: the reply is a refusal, leads elsewhere or is too long.
        UsageError: only half of the credentials is set.
    """
    request = urllib.request.Request(address.url, headers=_headers(address))  # noqa: S310 (checked)
    opener = _opener(secure=address.url.startswith("https:"), checked=not address.insecure)
    deadline_s = time.monotonic() + address.timeout_s
    try:
        with opener.open(request, timeout=address.timeout_s) as response:
            return _body(response, address, deadline_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error, address) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreached(error, address) from error


def ask_json(address: Address) -> object:
    """Return the JSON at an address, its decimal fractions as Decimal.

    Args:
        address: where.

    Raises:
        UnansweredError: there was no reply this time.
        SensorError: as `ask` does, or the reply is no JSON.
        UsageError: only half of the credentials is set.
    """
    text = ask(address).decode(errors="replace")
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        begins = textwrap.shorten(text[:200], 40, placeholder=" …")
        raise SensorError(
            f"{address.shown} does not answer in JSON but with {begins!r}; check the address"
        ) from error


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follow a redirect on the same host only, and never to a less safe scheme."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the next request, or refuse it."""
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        safer = (here.scheme, there.scheme) == ("http", "https") and here.hostname == there.hostname
        if (here.scheme, here.netloc) != (there.scheme, there.netloc) and not safer:
            fp.close()
            raise SensorError(
                f"{here.scheme}://{here.netloc} sends us on to {there.scheme}://"
                f"{there.hostname}; name that address if you trust it"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _split(page: str, meter: str) -> SplitResult:
    """Return the parts of an address whose scheme, host and port can be used."""
    try:
        parts = urlsplit(page)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"{meter}: that is no address of an instrument; write {meter}:http://HOST/PATH "
            "(http or https)"
        )
    return parts


def _headers(address: Address) -> dict[str, str]:
    """Return what is sent along; credentials only where nobody on the way can read them."""
    user, password, token = (
        os.environ.get(f"{address.variable}_{part}") for part in ("USER", "PASSWORD", "TOKEN")
    )
    if (user is None) != (password is None):
        raise UsageError(f"set both {address.variable}_USER and {address.variable}_PASSWORD")
    headers = {"Accept": "application/json, text/plain;q=0.9", "User-Agent": "joulewise"}
    if token is None and (user is None or password is None):
        return headers
    if not (address.url.startswith("https:") or address.insecure or _is_here(address.host)):
        raise SensorError(
            f"the password for {address.shown} would cross the network in the clear; use https, "
            "or add insecure=1 if nobody else is on that network"
        )
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    return headers | {"Authorization": f"Bearer {token}" if token else f"Basic {basic}"}


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@functools.cache
def _opener(*, secure: bool, checked: bool) -> urllib.request.OpenerDirector:
    """Return what sends requests; reading the authorities' certificates is slow, so only once."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _SameHost()]
    if secure:
        context = ssl.create_default_context()
        context.check_hostname = checked
        context.verify_mode = ssl.CERT_REQUIRED if checked else ssl.CERT_NONE
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _body(response: http.client.HTTPResponse, address: Address, deadline_s: float) -> bytes:
    """Return the whole body, if it is not too long and comes in time."""
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise SensorError(
                f"{address.shown} answers with more than {MAX_REPLY_BYTES >> 20} MiB; check the "
                "address"
            )
        if time.monotonic() > deadline_s:
            raise UnansweredError(_too_slow(address))
    length = response.headers.get("Content-Length")
    if length is not None and length.isdigit() and int(length) > len(body):
        raise UnansweredError(f"{address.shown} broke off its reply; is its network steady?")
    return bytes(body)


def _refused(error: urllib.error.HTTPError, address: Address) -> SensorError:
    """Say what a reply that is no success means."""
    state = f"{address.shown} answers {error.code} {error.reason}"
    if error.code in (401, 403):
        schemes = error.headers.get("WWW-Authenticate", "")
        if schemes.lower().startswith("digest"):
            return SensorError(
                f"{state}: it asks for digest authentication, which is not supported; let it be "
                "read without a password, or log it and use --meter recording:FILE"
            )
        return SensorError(
            f"{state}; set {address.variable}_USER and {address.variable}_PASSWORD to an account "
            "that may read it"
        )
    if error.code in RETRIED:
        return UnansweredError(f"{state}; wait until it works again")
    return SensorError(f"{state}{_said(error)}; check the address")


def _said(error: urllib.error.HTTPError) -> str:
    """Return what a server says is wrong, as Prometheus does with a query."""
    try:
        said = json.loads(error.read(CHUNK_BYTES))["error"]
    except (ValueError, TypeError, LookupError, OSError, http.client.HTTPException):
        return ""
    return f" ({textwrap.shorten(said, 100, placeholder=' …')})" if isinstance(said, str) else ""


def _unreached(error: Exception, address: Address) -> SensorError:
    """Say why there was no reply."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SensorError(
            f"the certificate of {address.shown} is not trusted ({reason.verify_message}); name "
            "its authority's file in SSL_CERT_FILE, or add insecure=1 if you know who answers"
        )
    if isinstance(reason, ssl.SSLError):
        return SensorError(f"{address.shown} does not speak TLS there; is it http, not https?")
    if isinstance(reason, TimeoutError):
        return UnansweredError(_too_slow(address))
    if isinstance(reason, socket.gaierror):
        return UnansweredError(f"no host is called {address.host}; check the address")
    cause = "the connection was refused" if isinstance(reason, ConnectionRefusedError) else ""
    cause = cause or (one_line(reason) if isinstance(reason, BaseException) else str(reason))
    return UnansweredError(
        f"{address.shown} cannot be reached ({cause}); is it on and its port right?"
    )


def _too_slow(address: Address) -> str:
    return f"{address.shown} gave no reply within {address.timeout_s:g} s; is it on and reachable?"
