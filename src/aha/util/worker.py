"""The far side of ``util.workers``: a process that calls one function for every line of JSON that it reads.

Started as ``python -m aha.util.worker MODULE:FUNCTION MEMORY DEADLINE``. It imports what the function needs and nothing
else of aha. It ends when its input does, so that nobody's death leaves it behind; should it be in the middle of an
endless job then, its own limit on processor time ends it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any


def main(target: str, memory: int, deadline: float) -> None:
    """``memory`` in bytes of address space, ``deadline`` in seconds a job."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for a reply

    def reply(**fields: Any) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    with contextlib.suppress(ValueError, OSError):  # not every system can limit it
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    module, name = target.split(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except BaseException as error:
        return reply(broken=describe(error))
    reply(ready=True)
    for line in sys.stdin:
        limit_processor_time(deadline)
        try:
            reply(value=function(*json.loads(line)))
        except MemoryError:
            return reply(memory=True)  # and this process is done for: what else failed to allocate is unknown
        except BaseException as error:  # SystemExit too: what is judged must not end the judge
            reply(raised=describe(error))


def limit_processor_time(deadline: float) -> None:
    """The system ends this process ``deadline`` and some seconds of processor time from now."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(spent.ru_utime + spent.ru_stime + deadline) + 2
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
