"""``aha serve``: a model folder behind the completions and chat completions of OpenAI's API, with log-probabilities.

What lm-eval, inspect and other clients of that API ask is here: prompts as text or ids, several samples, stop strings,
seeds, ``echo`` and ``logprobs`` (which are the model's own, at temperature 1, whatever it was sampled at). A chat's
thinking comes apart as ``reasoning_content``, as DeepSeek's API gives it. There is no streaming.

A request with an ``Idempotency-Key`` is answered once: one that comes again with it gets the same answer, and another
request with it 422.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from aha.errors import AhaError, CheckpointError, DataError, SettingError
from aha.records import Completion, FinishReason
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import check_ids
from aha.serve.batching import Batcher, Scored
from aha.stages.generate import room_for_new_tokens
from aha.stages.models import Policy
from aha.tokens.chat import render_chat
from aha.tokens.render import END_THINK, THINK
from aha.util.seeds import stream

MOST_WAITING = 1_000
"""Samples that may wait; a request over it is refused with 429 and told when to come again, one that asks for more by
itself with 400."""
KEPT_ANSWERS = 4_096
_REASONS = {FinishReason.END: "stop", FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


class _Way(BaseModel):
    """What both kinds of request have; fields of the API that are not here are ignored."""

    model: str = ""
    max_tokens: int | None = Field(None, ge=0)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False


class CompletionRequest(_Way):
    """``prompt``: a text or ids, or a list of either; ``logprobs``: so many of the likeliest tokens at each place."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(None, ge=0)
    echo: bool = False


class ChatRequest(_Way):
    """``messages`` of system, user and assistant, the last of the user."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0)


@dataclass(frozen=True)
class Served:
    """A model with its name, and the folder whose chat template takes several turns."""

    name: str
    policy: Policy
    folder: Path
    batcher: Batcher


def build_app(served: Served) -> FastAPI:
    """The API over one model."""
    app = FastAPI(title="aha", openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None)
    answers = _Once()

    @app.exception_handler(AhaError)
    async def _unusable(_: Request, error: AhaError) -> JSONResponse:
        # a CheckpointError is of a chat that the model's template, or its lack, cannot take
        return _error(400 if isinstance(error, DataError | SettingError | CheckpointError) else 500, str(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _error(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": served.name, "object": "model", "owned_by": "aha"}]}

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        return await answers.get(request, asked, lambda: _complete(served, asked))

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        return await answers.get(request, asked, lambda: _chat(served, asked))

    return app


class _Once:
    """Answers by the key of their request, the latest ``KEPT_ANSWERS`` of them."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[_Way, asyncio.Task[Any]]] = OrderedDict()

    async def get(self, request: Request, asked: _Way, answer: Callable[[], Awaitable[Any]]) -> Any:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return await answer()
        place = f"{request.url.path} {key}"
        before, task = self._known.get(place, (asked, None))
        if task is None or (task.done() and _failed(task)):
            task = asyncio.ensure_future(answer())
            self._known[place] = asked, task
            while len(self._known) > KEPT_ANSWERS:
                self._known.popitem(last=False)
        elif asked != before:
            return _error(422, f"Idempotency-Key {key!r} came with another request before: give each a key of its own")
        return await asyncio.shield(task)  # a client that goes away does not take the answer along


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None or isinstance(task.result(), JSONResponse)


async def _complete(served: Served, asked: CompletionRequest) -> Any:
    prompts = _prompts(served, asked.prompt)
    if not prompts:
        return _error(400, "prompt is an empty list: nothing is asked")
    if refused := _refuse(served, asked, len(prompts)):
        return refused
    most = 16 if asked.max_tokens is None else asked.max_tokens
    if not most and not asked.echo:
        return _error(400, "max_tokens is 0: nothing is asked but with echo")
    sampled = await _sample(served, asked, prompts, most)
    decode = served.policy.tokenizer.decode
    choices = []
    for index, (ids, found) in enumerate(sampled):
        said = list(found.token_ids) if found else []
        begun = _begun(served, ids)
        before = ids[begun:] if asked.echo else []
        whole = decode([*before, *said])
        text = _cut(whole, asked, start=len(decode(before)))
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "finish_reason": _REASONS[found.finish_reason] if found else "length",
            "logprobs": None,
        }
        if asked.logprobs is not None:
            scored = await asyncio.wrap_future(served.batcher.score([*ids, *said], top=asked.logprobs))
            shown, unsaid = ([*ids, *said], begun) if asked.echo else (said, 0)
            columns = _completion_logprobs(served, shown, scored, text=text, begun=unsaid, echo=asked.echo)
            last = len(shown)
            if len(text) < len(whole):  # up to the token with which the text is as long as it is
                last = bisect_left(range(last), len(text), key=lambda n: len(decode(shown[unsaid:n])))
            choice["logprobs"] = {name: column[:last] for name, column in columns.items()}
        choices.append(choice)
    return _reply(served, "text_completion", choices, prompts, sampled)


async def _chat(served: Served, asked: ChatRequest) -> Any:
    if refused := _refuse(served, asked, 1):
        return refused
    if asked.max_tokens == 0:
        return _error(400, "max_tokens is 0: nothing is asked")
    prompt, opened = _chat_prompt(served, asked.messages)
    wanted = room_for_new_tokens(served.policy, len(prompt), asked.max_completion_tokens or asked.max_tokens)
    sampled = await _sample(served, asked, [prompt], wanted)
    choices = []
    for index, (ids, found) in enumerate(sampled):
        assert found is not None
        text = _cut(served.policy.tokenizer.decode(found.token_ids), asked)
        thought, _, rest = (f"{THINK}{text}" if opened else text).partition(END_THINK)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thought.strip().startswith(THINK):  # one that was cut has no end, and no answer behind it
            reasoning = thought.strip().removeprefix(THINK).strip()
            message = {"role": "assistant", "reasoning_content": reasoning, "content": rest.strip()}
        choice = {"index": index, "message": message, "finish_reason": _REASONS[found.finish_reason], "logprobs": None}
        if asked.logprobs:
            scored = await asyncio.wrap_future(
                served.batcher.score([*ids, *found.token_ids], top=asked.top_logprobs)
            )
            choice["logprobs"] = {"content": _chat_logprobs(served, found, scored, asked.top_logprobs)}
        choices.append(choice)
    return _reply(served, "chat.completion", choices, [prompt], sampled)


async def _sample(
    served: Served, asked: _Way, prompts: Sequence[Sequence[int]], most: int
) -> list[tuple[list[int], Completion | None]]:
    """(prompt, completion), ``n`` of each prompt, one after the other; without tokens to sample, the prompts alone."""
    if not most:
        for index, ids in enumerate(prompts):
            check_ids(served.policy.config, f"prompt {index}", ids, 0)
        return [(list(ids), None) for ids in prompts for _ in range(asked.n)]
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    ends = served.policy.tokenizer.end_token_ids
    params = SamplingParams(most, asked.temperature, asked.top_p, end_token_ids=ends, stop=stop)
    seed = secrets.randbits(31) if asked.seed is None else asked.seed
    futures = [
        served.batcher.sample(ids, [stream(seed, "served", i, g) for g in range(asked.n)], params)
        for i, ids in enumerate(prompts)
    ]
    groups = [await asyncio.wrap_future(future) for future in futures]
    return [(list(ids), one) for ids, group in zip(prompts, groups, strict=True) for one in group]


def _prompts(served: Served, prompt: str | list[int] | list[str] | list[list[int]]) -> list[list[int]]:
    """Ids of each prompt: ids as they are, texts from what the tokenizer begins them with; the template is the chat's
    affair."""
    several = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
    encode = served.policy.tokenizer.encode_from_start
    return [encode(one) if isinstance(one, str) else list(one) for one in several]  # type: ignore[arg-type]


def _chat_prompt(served: Served, messages: Sequence[dict[str, Any]]) -> tuple[list[int], bool]:
    """The prompt's ids, and whether it has opened the thinking."""
    for message in messages:
        if not isinstance(message.get("content"), str) or message.get("role") not in ("system", "user", "assistant"):
            raise DataError(f"a message needs a role (system, user, assistant) and a text as content: {message!r}")
    if len(messages) == 1 and messages[0]["role"] == "user":
        text = served.policy.renderer.prompt_text(messages[0]["content"])
    else:
        text = render_chat(served.folder, messages)
    return served.policy.tokenizer.encode_from_start(text), text.rstrip().endswith(THINK)


def _refuse(served: Served, asked: _Way, prompts: int) -> JSONResponse | None:
    if asked.model not in ("", served.name):
        return _error(404, f"no model {asked.model!r} here, only {served.name!r}")
    if asked.stream:
        return _error(400, "stream: answers come whole here; leave it out")
    if (samples := prompts * asked.n) > MOST_WAITING:
        return _error(400, f"{samples} samples of {prompts} prompts: a request may ask for {MOST_WAITING} at most")
    if served.batcher.waiting + samples > MOST_WAITING:
        return _error(429, f"{served.batcher.waiting} samples wait already", headers={"Retry-After": "1"})
    return None


def _cut(text: str, asked: _Way, *, start: int = 0) -> str:
    """Without the stop string and what follows it, as the API has it; what is sampled begins at ``start``."""
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    places = [place for one in stop if (place := text.find(one, start)) >= 0]
    return text[: min(places)] if places else text


def _completion_logprobs(
    served: Served, shown: Sequence[int], scored: Scored, *, text: str, begun: int, echo: bool
) -> dict[str, list[Any]]:
    """Of the tokens shown: what each adds to ``text``, a space before a word included, and where that stands. A text's
    first token, which nothing precedes, has no log-probability, and the ``begun`` that a tokenizer begins texts with
    are no part of it."""
    tokenizer = served.policy.tokenizer

    def says(place: int, token: int) -> str:
        return (tokenizer.pieces([token])[0] if place > begun else "") or tokenizer.token_text(token)

    texts = [says(place, token) for place, token in enumerate(shown)]
    adds = [
        0 if place < begun or not tokenizer.decode([token]) else len(texts[place]) for place, token in enumerate(shown)
    ]
    # A character that several tokens share counts once for each, so what stands behind it seems further on.
    offsets = [min(at, len(text)) for at in itertools.accumulate(adds, initial=0)][:-1]
    count = len(shown) - 1 if echo else len(shown)
    first = len(shown) - count
    logprobs = [None] * first + list(scored.logprobs[len(scored.logprobs) - count :])
    top = [None] * first + [
        {says(place, token): logp for token, logp in reversed(row)}
        for place, row in enumerate(scored.top[len(scored.top) - count :], first)
    ]
    return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


def _begun(served: Served, ids: Sequence[int]) -> int:
    """How many of a prompt's ids are what the tokenizer begins texts with, and no part of what was asked."""
    begin = served.policy.tokenizer.begin_ids
    return len(begin) if list(ids[: len(begin)]) == begin else 0


def _chat_logprobs(served: Served, found: Completion, scored: Scored, top: int) -> list[dict[str, Any]]:
    count = len(found.token_ids)
    rows = zip(found.token_ids, scored.logprobs[-count:], scored.top[-count:], strict=True)
    text = served.policy.tokenizer.token_text
    return [
        {
            "token": text(token),
            "logprob": logprob,
            "top_logprobs": [{"token": text(other), "logprob": logp} for other, logp in best[:top]],
        }
        for token, logprob, best in rows
    ]


def _reply(
    served: Served,
    kind: str,
    choices: Sequence[dict[str, Any]],
    prompts: Sequence[Sequence[int]],
    sampled: Sequence[tuple[Sequence[int], Completion | None]],
) -> dict[str, Any]:
    read, said = sum(map(len, prompts)), sum(len(found.token_ids) for _, found in sampled if found)
    usage = {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}
    head = {"id": f"aha-{secrets.token_hex(8)}", "object": kind, "created": int(time.time()), "model": served.name}
    return {**head, "choices": list(choices), "usage": usage}


def _error(status: int, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers)
