"""Run ``python -I -S meter_launcher.py COMMAND``: print what a command used, as a line of JSON.

A process starts with the peak memory of the one that started it, so that this one is small.

Source: getrusage(2), ru_maxrss in kilobytes; exec_mmap in linux/fs/exec.c keeps the larger peak.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> int:
    """Return 1 where the command failed."""
    before_s = time.monotonic()
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(pid, 0)
    used = {
        "wall_s": time.monotonic() - before_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    print(json.dumps(used), flush=True)
    return int(os.waitstatus_to_exitcode(status) != 0)


if __name__ == "__main__":
    sys.exit(main())
