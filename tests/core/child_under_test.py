"""A module that `joulewise.core.child.Child` starts; what it does is asked for by name."""

from __future__ import annotations

import os
import signal
import sys
import time

from joulewise.core.child import serve, tell
from joulewise.core.errors import InputError


def echo(value: object) -> object:
    return value


def count(times: int) -> int:
    for number in range(times):
        tell([number, "so far"])
    return times


def fail(text: str) -> None:
    raise ValueError(text)


def fail_on_purpose() -> None:
    raise InputError("the model is empty; give another")


def give_what_is_no_json() -> object:
    return object()


def abort() -> None:
    os.abort()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(text: str, code: int = 7) -> None:
    print(text, file=sys.stderr, flush=True)
    os._exit(code)


def chatter() -> str:
    """Write to stdout as Python and as a C library do, more than a pipe holds."""
    for _ in range(100):
        print("x" * 1000, flush=True)
        os.write(1, b'{"answer": "not this"}\n')
    return "done"


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def pid() -> int:
    return os.getpid()


def linger(seconds: float) -> None:
    tell(os.getpid())
    time.sleep(seconds)


def compute(seconds: float) -> float:
    """Use CPU time for so long, s; return how much it was."""
    began_s = time.process_time()
    while time.process_time() - began_s < seconds:
        pass
    return time.process_time() - began_s


def is_imported(module: str) -> bool:
    return module in sys.modules


def remember(value: str) -> list[str]:
    """Return all that this process was ever told to remember."""
    REMEMBERED.append(value)
    return REMEMBERED


REMEMBERED: list[str] = []


def imports(modules: tuple[str, ...] = (), **_: object) -> tuple[str, ...]:
    return modules


def echo_with(value: object, modules: tuple[str, ...]) -> tuple[object, list[bool]]:
    return value, [name in sys.modules for name in modules]


if __name__ == "__main__":
    serve(
        {
            handler.__name__: handler
            for handler in (
                echo,
                count,
                fail,
                fail_on_purpose,
                give_what_is_no_json,
                abort,
                kill,
                leave,
                chatter,
                sleep,
                variable,
                pid,
                is_imported,
                linger,
                compute,
                remember,
                echo_with,
            )
        },
        imports if "COPIED" in os.environ else None,
    )
