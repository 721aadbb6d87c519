"""Work in a child process: a crash, a leak or a chatty library there cannot hurt the caller.

The caller sends one JSON request per line and gets one JSON answer per line, before which a long
request may tell of its progress in lines of its own. Answers travel through a pipe of their own, so
that whatever a library prints to stdout does no harm. A child ends by itself when its caller is
gone, even if the caller was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import msgspec

from joulewise.core.errors import JoulewiseError, ProgramError

__all__ = ["FORKS", "Child", "serve", "tell"]

Handler = Callable[..., object]
Imports = Callable[..., Sequence[str]]
PR_SET_PDEATHSIG = 1  # linux/prctl.h

DONE = 99
"""Exit code of a copy that has answered; any other was chosen by a library that ended it."""

FORKS = sys.platform == "linux"
"""Whether a process can be copied: macOS's own libraries do not bear it, Windows cannot."""


class Child:
    """A child process that runs `module` and answers requests.

    Args:
        module: importable module whose ``__main__`` calls `serve`.
        environment: variables added to the caller's.
        python: interpreter that runs it, of another environment; None for the caller's own.
    """

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str] | None = None,
        python: Path | None = None,
    ) -> None:
        self.module = module
        interpreter = str(python or sys.executable)
        reader, writer = os.pipe()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(
                [interpreter, "-P", "-m", module, str(writer)],  # -P: not the caller's folder
                stdin=subprocess.PIPE,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(writer,),
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C reaches the caller, which then ends the child
            )
        finally:
            os.close(writer)
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = os.fdopen(reader, "rb", buffering=0)  # select knows nothing of buffers
        self._unread = b""
        self._owes = False

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def idle(self) -> bool:
        """Whether it has answered all that it was asked, and can be asked again."""
        return self.alive and not self._owes

    def ask(
        self,
        request: str,
        timeout_s: float = 600.0,
        limit_s: float = math.inf,
        told: Callable[[Any], None] | None = None,
        **arguments: object,
    ) -> Any:  # noqa: ANN401
        """Send one request and return its answer, decoded from JSON.

        Args:
            request: name of a handler.
            timeout_s: longest silence, s.
            limit_s: longest time in all, s.
            told: called with whatever the handler tells before it answers.
            arguments: of the handler.

        Raises:
            ProgramError: the child failed, died, or said nothing for `timeout_s`.
            TimeoutError: it took longer than `limit_s`, and was ended.
        """
        if self._requests.closed:
            raise ProgramError(f"{self.module} was closed")
        line = msgspec.json.encode({"request": request, "arguments": arguments}) + b"\n"
        self._owes = True
        try:
            self._requests.write(line)
            self._requests.flush()
        except BrokenPipeError:
            raise ProgramError(self._obituary()) from None
        ends_s = time.monotonic() + limit_s
        while True:
            answer = self._read_line(time.monotonic() + timeout_s, ends_s)
            if not answer:
                raise ProgramError(self._obituary())
            decoded = msgspec.json.decode(answer)
            self._owes = "told" in decoded
            if "error" in decoded:
                raise ProgramError(decoded["error"])
            if "answer" in decoded:
                return decoded["answer"]
            if told is not None:
                told(decoded["told"])

    def close(self) -> None:
        """End the child and free what it held; closing twice is harmless."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.close()

    def _read_line(self, silent_s: float, ends_s: float) -> bytes:
        """Return the next line, empty where the child has ended."""
        while time.monotonic() < ends_s:
            if b"\n" in self._unread:
                line, _, self._unread = self._unread.partition(b"\n")
                return line
            left_s = max(0.0, min(silent_s, ends_s) - time.monotonic())
            ready, _, _ = select.select([self._answers], [], [], left_s)
            if ready:
                part = self._answers.read(1 << 16)
                if not part:
                    return b""
                self._unread += part
            elif silent_s <= ends_s:
                self._process.kill()
                raise ProgramError(f"{self.module} did not answer in time and was ended")
        self._process.kill()
        raise TimeoutError(f"{self.module} took too long and was ended")

    def _obituary(self) -> str:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        how += ", as where memory runs out" if code == -signal.SIGKILL else ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{self.module} {how}: {lines[-1] if lines else 'it said nothing'}"


def serve(handlers: Mapping[str, Handler], imports: Imports | None = None) -> None:
    """Answer requests until the caller closes the pipe. Called by the child's ``__main__``.

    Args:
        handlers: by the name of the request.
        imports: names modules that take long to import, by the arguments of a request. Given, and
            where FORKS, each request is answered by a process of its own that has them already:
            this one imports them once and is copied for every request. They must start no threads,
            which a copy would lack.
    """
    _die_with_parent()
    with os.fdopen(int(sys.argv[1]), "wb") as answers:
        _CALLERS.append(answers)
        for line in sys.stdin.buffer:
            if imports is not None and FORKS:
                _import(imports(**msgspec.json.decode(line)["arguments"]))
                _fork(partial(_send_answer, answers, handlers, line))
            else:
                _send_answer(answers, handlers, line)


_CALLERS: list[IO[bytes]] = []
"""The pipe to the caller; empty in a process that is no child."""


def tell(value: object) -> None:
    """Tell the caller something before the answer; nothing happens in a process that is no child.

    Args:
        value: anything that JSON can hold.
    """
    for answers in _CALLERS:
        _send(answers, msgspec.json.encode({"told": value}))


def _import(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # whoever needs it then says what it fails on
            importlib.import_module(name)


def _fork(work: Callable[[], None]) -> None:
    """Do some work in a copy of this process, and end like it where it does not come to its end."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _die_with_parent()
        if os.getppid() == parent:  # else it was killed before the line above
            work()
        os._exit(DONE)  # without what is to be done at the end of the process that was copied
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    elif code != DONE:
        os._exit(code)


def _send_answer(answers: IO[bytes], handlers: Mapping[str, Handler], line: bytes) -> None:
    _send(answers, _answer(handlers, line))


def _send(answers: IO[bytes], line: bytes) -> None:
    answers.write(line + b"\n")
    answers.flush()


def _answer(handlers: Mapping[str, Handler], line: bytes) -> bytes:
    asked = msgspec.json.decode(line)
    try:
        return msgspec.json.encode({"answer": handlers[asked["request"]](**asked["arguments"])})
    except JoulewiseError as error:
        return msgspec.json.encode({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - every failure of a library becomes one line
        return msgspec.json.encode({"error": f"{type(error).__name__}: {_first(str(error))}"})


def _first(text: str) -> str:
    """Return the first line of a text, and the one after it where it only announces that."""
    lines = text.strip().splitlines() or [""]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
