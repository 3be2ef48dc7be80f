"""Real servers for tests of teachers: one that answers and fails by a script, and ours over a tiny model."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "drop", "malformed", "not-a-completion", "stall")


class ScriptedTeacher:
    """Answers chats by ``answer(content, seed)`` after the faults that ``faults(content, seed)`` names, one an attempt.

    ``billed`` counts the answers that were made for each key: one that was made and did not arrive (``stall``) is not
    made again for the same key, as endpoints that know ``Idempotency-Key`` do. ``arrived`` are the times of requests.
    An answer may be a message with its ``finish_reason``; ``usage`` says whether answers say what they took.
    """

    def __init__(
        self,
        answer: Callable[[str, int], Any],
        faults: Callable[[str, int], Sequence[str]] = lambda content, seed: (),
        *,
        stall: float = 1.0,
        pause: float = 0.0,
        usage: bool = True,
    ) -> None:
        self.answer, self.faults, self.stall, self.pause, self.usage = answer, faults, stall, pause, usage
        self.billed: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.made: dict[str, bytes] = {}
        self.arrived: list[float] = []
        self.lock = threading.Lock()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        content, seed, key = body["messages"][-1]["content"], body["seed"], request.headers["Idempotency-Key"]
        with self.lock:
            self.arrived.append(time.monotonic())
            attempt = self.attempts[key]
            self.attempts[key] += 1
        script = self.faults(content, seed)
        fault = script[attempt] if attempt < len(script) else ""
        time.sleep(self.pause)
        if fault.isdigit():
            wait = {"Retry-After": "0"} if fault == "429" else {}
            _send(request, int(fault), {"error": {"message": f"scripted {fault}"}}, wait)
        elif fault == "drop":
            request.connection.close()
        elif fault == "malformed":
            _send(request, 200, b'{"choices": [{"mess', {})
        elif fault == "not-a-completion":
            _send(request, 200, {"choices": []}, {})
        else:
            with self.lock:
                if key not in self.made:
                    self.billed[key] += 1
                    self.made[key] = self._completion(content, seed)
            if fault == "stall":
                time.sleep(self.stall)
            with contextlib.suppress(OSError):  # the client may have gone away
                _send(request, 200, self.made[key], {})

    def _completion(self, content: str, seed: int) -> bytes:
        said = self.answer(content, seed)
        message = dict(said) if isinstance(said, dict) else {"role": "assistant", "content": said}
        words = len(str(message["content"] or "").split())
        choice = {"index": 0, "finish_reason": message.pop("finish_reason", "stop"), "message": message}
        usage = {"prompt_tokens": len(content.split()), "completion_tokens": words} if self.usage else None
        return json.dumps({"choices": [choice], "usage": usage}).encode()


def _send(request: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str]) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data)


@contextlib.contextmanager
def serving(teacher: ScriptedTeacher) -> Iterator[str]:
    """The teacher on a port of this machine; yields the URL an ``Endpoint`` takes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            teacher.handle(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
