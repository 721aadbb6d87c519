"""``joulewise measure --prometheus PORT``, seen by somebody who asks while the command runs."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cli.program import joulewise, only_line

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def seconds(url: str) -> float:
    with urlopen(url, timeout=10) as answer:  # noqa: S310  (our own page)
        lines = answer.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith("joulewise_energy_seconds_total{")]
    return float(line.rpartition(" ")[2])


def test_counters_grow_while_the_command_runs_and_end_with_it() -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "joulewise", "measure", "--meter", "cpu-time", "--prometheus",
            "0", "--", "sh", "-c", "echo begun; cat",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    url = process.stderr.readline().split()[1]
    assert url.startswith("http://127.0.0.1:")
    assert process.stdout.readline() == "begun\n"
    first, second = seconds(url), seconds(url)
    assert 0 < first < second
    out, err = process.communicate("the command's own input\n")
    assert (process.returncode, out) == (0, "the command's own input\n")
    assert "energy " in err
    with pytest.raises(OSError, match="refused"):
        urlopen(url, timeout=10)  # noqa: S310  (our own page)


def test_port_in_use_stops_before_the_command() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = joulewise("measure", "--prometheus", port, "--", "echo", "ran")
    assert done.returncode == 2
    assert f"port {port}" in only_line(done)


def test_file_that_is_named_like_a_port(tmp_path: Path) -> None:
    done = joulewise(
        "measure", "--meter", "cpu-time", "--prometheus", "./9464", "--", "true", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "joulewise_energy_joules_total{" in (tmp_path / "9464").read_text()
