"""A model behind an OpenAI-style endpoint, asked one sample at a time: retries, rate limit, account of tokens and cost.

Every sample is a request of its own with a key of its own, so that what was paid for is kept as soon as it is here, and
an attempt that comes after a lost answer says that it is the same one (``Idempotency-Key``). The client is httpx2: what
``transformers`` brings along already through ``huggingface_hub``, with timeouts and pools that are tested elsewhere.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import httpx2
from pydantic import field_validator

from aha.config import Count, Frozen, NotNegative, Rate
from aha.errors import EndpointError, SettingError
from aha.records import FinishReason
from aha.rollout.engine import SamplingParams

REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which the same request may succeed; all others are the request's own fault."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts, where the endpoint names none itself; it may name up to ten times as many."""
FAILURES_IN_A_ROW = 8
"""Samples that were given up one after the other: then the endpoint is gone, and asking on would only cost."""
REASONS = {
    "stop": FinishReason.END,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.BROKEN,
    "insufficient_system_resource": FinishReason.BROKEN,  # DeepSeek's
}
TEMPLATE_TOKENS = 256
"""What a template and a system prompt of the endpoint's own may add to a prompt, at most."""


class Endpoint(Frozen):
    """``url`` ends before ``/chat/completions``; the key is read from the environment variable ``key_variable``, never
    kept. ``prompt`` goes around the question. Prices are per million tokens, in any currency; ``most_cost`` needs them
    and stops before a request when that much is spent. What is asked, and so what comes, depends on the first three
    alone."""

    incidental: ClassVar[frozenset[str]] = frozenset(
        {
            "key_variable", "at_once", "per_minute", "timeout", "attempts", "first_wait",
            "price_in", "price_out", "most_cost",
        }
    )  # fmt: skip

    url: str
    model: str
    prompt: str = "{question}"
    key_variable: str = "OPENAI_API_KEY"
    at_once: Count = 8
    per_minute: Rate | None = None
    timeout: Rate = 600.0
    attempts: Count = 6
    first_wait: NotNegative = 1.0
    price_in: NotNegative = 0.0
    price_out: NotNegative = 0.0
    most_cost: Rate | None = None

    @field_validator("prompt")
    @classmethod
    def _has_a_question(cls, prompt: str) -> str:
        if prompt.count("{question}") != 1:
            raise ValueError(f"has {prompt.count('{question}')} places for the question, needs one '{{question}}'")
        return prompt


@dataclass(frozen=True, slots=True)
class Asked:
    """One sample that is wanted: ``Asked("sum/7+45", 0, "What is 7 + 45?", seed=17)``, the 0th of its problem."""

    problem_id: str
    number: int
    question: str
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.problem_id, self.number


@dataclass(frozen=True, slots=True)
class Answered:
    """What came: the text as a response is read, tags and all, and what it took. ``asked`` is a hash of all that an
    endpoint was asked; empty where nobody was paid. Of one that is not ``metered`` the endpoint did not say what it
    took: it has the most tokens that it can have taken."""

    key: tuple[str, int]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    tokens: int
    asked: str = ""
    metered: bool = True


@dataclass
class Account:
    """What was asked and paid, by every thread; ``failed`` attempts may have been billed or not, nobody knows, and
    ``unmetered`` answers may have cost less."""

    price_in: float = 0.0
    price_out: float = 0.0
    answered: int = 0
    unmetered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        return (self.prompt_tokens * self.price_in + self.tokens * self.price_out) / 1e6

    def add(self, answer: Answered) -> None:
        self.answered += 1
        self.unmetered += not answer.metered
        self.prompt_tokens += answer.prompt_tokens
        self.tokens += answer.tokens


class EndpointSampler:
    """``EndpointSampler(endpoint, params).sample(asked, keep, tick)`` asks for all of ``asked``.

    ``keep`` is called with each answer as soon as it is here, one call at a time: it is to write it down. ``tick`` is
    called after each in the caller's thread and may raise to stop; requests under way are then awaited and kept.

    A sample that fails ``attempts`` times is given up, so that one bad prompt does not hold up the rest: it is in
    ``given_up`` with its reason. ``EndpointError`` for what no attempt can mend (a wrong key, an unknown model), for
    several samples given up in a row, and where ``most_cost`` is reached; ``SettingError`` where it never would be.
    """

    def __init__(self, endpoint: Endpoint, params: SamplingParams, *, spent: Account | None = None) -> None:
        if endpoint.most_cost is not None and not (endpoint.price_in or endpoint.price_out):
            raise SettingError(f"most_cost is {endpoint.most_cost:g}, but nothing has a price: set price_in, price_out")
        self.endpoint, self.params = endpoint, params
        self.account = spent or Account()
        self.account.price_in, self.account.price_out = endpoint.price_in, endpoint.price_out
        self.given_up: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()
        self._next_start = 0.0
        self._stop = threading.Event()

    def mark(self, one: Asked) -> str:
        """A hash of all that is asked for a sample, and of whom: an answer with another one is not its answer."""
        whole = [self.endpoint.url.rstrip("/"), self._body(one), one.problem_id, one.number]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    def refuse(self, question: str) -> str:
        """Nothing: how long a question may be is the endpoint's to say."""
        return ""

    def sample(self, asked: Sequence[Asked], keep: Callable[[Answered], None], tick: Callable[[], None]) -> None:
        """See the class; ``at_once`` requests at a time."""
        todo: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        for one in asked:
            todo.put(one)
        done: queue.SimpleQueue[_End] = queue.SimpleQueue()
        self._stop.clear()
        token = os.environ.get(self.endpoint.key_variable)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx2.Client(timeout=self.endpoint.timeout, headers=headers) as client:
            workers = [
                threading.Thread(target=self._work, args=(client, todo, keep, done), daemon=True)
                for _ in range(min(self.endpoint.at_once, len(asked)))
            ]
            for worker in workers:
                worker.start()
            try:
                self._watch(done, len(workers), tick)
            finally:
                self._stop.set()
                for worker in workers:
                    worker.join()

    def _watch(self, done: queue.SimpleQueue[_End], working: int, tick: Callable[[], None]) -> None:
        error: Exception | None = None
        row = 0
        while working:
            match done.get():
                case None:
                    working -= 1
                case Answered():
                    row = 0
                    tick()
                case _GivenUp() as given_up:
                    row += 1
                    self.given_up[given_up.asked.key] = given_up.why
                    if row >= FAILURES_IN_A_ROW and error is None:
                        why = f"{row} samples in a row failed, the last: {given_up.why}"
                        error = EndpointError(f"{self.endpoint.url}: {why}")
                        self._stop.set()
                case failure:
                    error = error or failure
                    self._stop.set()
        if error is not None:
            raise error

    def _work(
        self,
        client: httpx2.Client,
        todo: queue.SimpleQueue[Asked],
        keep: Callable[[Answered], None],
        done: queue.SimpleQueue[_End],
    ) -> None:
        try:
            while not self._stop.is_set():
                try:
                    one = todo.get_nowait()
                except queue.Empty:
                    break
                self._check_cost()
                found = self._ask(client, one)
                if isinstance(found, Answered):
                    with self._lock:
                        keep(found)
                if found is not None:
                    done.put(found)
        except Exception as error:
            done.put(error)
        finally:
            done.put(None)

    def _check_cost(self) -> None:
        most = self.endpoint.most_cost
        if most is not None and self.account.cost >= most:
            said = f"{self.account.cost:.4g} spent, most_cost is {most:g}: raise it"
            if self.account.unmetered:
                said += f" ({self.account.unmetered} answers without usage count as the most that they can have cost)"
            raise EndpointError(f"{self.endpoint.url}: {said}")

    def _ask(self, client: httpx2.Client, one: Asked) -> Answered | _GivenUp | None:
        """One sample, after as many attempts as it takes. Waits double and are drawn at random up to that, so that
        clients which were refused together do not come back together; ``Retry-After`` holds up all of them."""
        body, key, why = self._body(one), self.mark(one), ""
        for attempt in range(self.endpoint.attempts):
            if not self._await_turn():
                return None
            wait: float | None = None
            try:
                url = f"{self.endpoint.url.rstrip('/')}/chat/completions"
                reply = client.post(url, json=body, headers={"Idempotency-Key": key})
                if reply.status_code == 200:
                    return self._read(one, reply)
                why, wait = _refusal(reply)
                if reply.status_code not in REPEATED:
                    raise EndpointError(f"{self.endpoint.url}: {why}")
            except httpx2.TransportError as error:
                why = f"{type(error).__name__}: {error}"
            except _Malformed as error:
                why = str(error)
            self._count_failure(why)
            if wait is None:
                wait = random.uniform(0, min(LONGEST_WAIT, self.endpoint.first_wait * 2**attempt))
                if self._stop.wait(wait):
                    return None
            else:
                self._hold(wait)
        return _GivenUp(one, why)

    def _content(self, one: Asked) -> str:
        return self.endpoint.prompt.replace("{question}", one.question)

    def _body(self, one: Asked) -> dict[str, Any]:
        return {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": self._content(one)}],
            "max_tokens": self.params.max_new_tokens,
            "temperature": self.params.temperature,
            "top_p": self.params.top_p,
            "seed": one.seed % 2**31,
        }

    def _read(self, one: Asked, reply: httpx2.Response) -> Answered:
        try:
            body = reply.json()
            choice, usage = body["choices"][0], body.get("usage") or {}
            reason = REASONS.get(str(choice.get("finish_reason")), FinishReason.STOP)
            text = message_text(choice["message"], may_lack=reason is FinishReason.BROKEN)
            prompt_tokens, tokens = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise _Malformed(f"answer 200 that is no chat completion ({error!r}): {reply.text[:120]!r}") from None
        metered = prompt_tokens > 0 and (tokens > 0 or not text)
        if not metered:  # a token is a byte or more
            prompt_tokens = prompt_tokens or len(self._content(one).encode()) + TEMPLATE_TOKENS
            tokens = tokens or self.params.max_new_tokens
        answer = Answered(one.key, text, reason, prompt_tokens, tokens, self.mark(one), metered)
        with self._lock:
            self.account.add(answer)
        return answer

    def _count_failure(self, why: str) -> None:
        with self._lock:
            self.account.failed += 1
            short = why[:60]
            self.account.reasons[short] = self.account.reasons.get(short, 0) + 1

    def _await_turn(self) -> bool:
        """Waits until a request may start; False when nothing may start any more."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + (60.0 / self.endpoint.per_minute if self.endpoint.per_minute else 0.0)
        return not self._stop.wait(max(0.0, start - now))

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._next_start = max(self._next_start, time.monotonic() + seconds)


class _Malformed(Exception):
    """An answer with status 200 that cannot be used."""


@dataclass(frozen=True)
class _GivenUp:
    asked: Asked
    why: str


_End = Answered | _GivenUp | Exception | None
"""What a thread says: an answer is kept, a sample is given up, the asking failed, or this thread has ended."""


def message_text(message: Any, *, may_lack: bool = False) -> str:
    """A reply as one text: ``reasoning_content``, where the endpoint keeps it apart, in its tags before the rest.
    ``TypeError`` where there is none, unless it ``may_lack``."""
    content = message.get("content") or ""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(content, str) or not isinstance(thought, str) or not (content or thought or may_lack):
        raise TypeError("a message without text")
    return f"<think> {thought.strip()} </think> {content.strip()}" if thought else content


def _refusal(reply: httpx2.Response) -> tuple[str, float | None]:
    """What the endpoint says, and the seconds it asks to wait."""
    try:
        error = reply.json()["error"]
        said = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        said = reply.text
    return f"status {reply.status_code}: {said[:200]}", retry_after(reply.headers.get("Retry-After"))


def retry_after(value: str | None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Seconds of a ``Retry-After`` header, which is a number or a date (RFC 9110, 10.2.3); None for neither."""
    if value is None:
        return None
    try:
        return min(10 * LONGEST_WAIT, max(0.0, float(value)))
    except ValueError:
        pass
    try:
        return min(10 * LONGEST_WAIT, max(0.0, (email.utils.parsedate_to_datetime(value) - now()).total_seconds()))
    except (ValueError, TypeError):
        return None
