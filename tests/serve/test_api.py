"""``aha serve`` over HTTP gives what engine and model give, logs and refuses as clients of OpenAI's API expect, and
serves as a teacher."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import aha
from aha.errors import EndpointError
from aha.objective import logprob
from aha.records import Completion, FinishReason
from aha.rollout.engine import SamplingParams
from aha.stages import reject
from aha.stages.context import Context
from aha.stages.models import Policy, build_loaded_engine, save_policy
from aha.testing import byte_tokenizer, tiny_policy, word_tokenizer
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import load_tokenizer
from aha.util.seeds import stream

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
from aha.serve.api import MOST_WAITING, Served, build_app  # noqa: E402
from aha.serve.batching import Batcher, build_batcher, score_text  # noqa: E402


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(seed=3)


@contextlib.contextmanager
def serving(served: Served) -> Iterator[httpx2.Client]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(served), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    with httpx2.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1/", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()
    served.batcher.close()


@pytest.fixture(scope="module")
def client(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("model")
    save_policy(policy, folder)
    with serving(Served("tiny", policy, folder, build_batcher(policy))) as found:
        yield found


def ask(client: httpx2.Client, what: str, **body: Any) -> dict[str, Any]:
    reply = client.post(what, json={"model": "tiny", **body})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_completions_are_the_engines_whatever_their_batch(client: httpx2.Client, policy: Policy) -> None:
    texts = ["compute 2 + 3", "compute 7", "first 2 + 3 = 5"]
    engine = build_loaded_engine(policy)
    params = SamplingParams(9, 0.8, end_token_ids=policy.tokenizer.end_token_ids)
    found: dict[int, dict[str, Any]] = {}

    def one(number: int) -> None:
        body = {"prompt": texts[number], "max_tokens": 9 - number, "temperature": 0.8, "n": 2, "seed": number}
        found[number] = ask(client, "completions", **body)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, text in enumerate(texts):
        ids = policy.tokenizer.encode(text)
        seeds = [[stream(number, "served", 0, g) for g in range(2)]]
        (wanted,) = engine.generate([ids], seeds, params, limits=[[9 - number] * 2])
        choices = found[number]["choices"]
        assert [choice["text"] for choice in choices] == [policy.tokenizer.decode(c.token_ids) for c in wanted]
        ends = ["length" if c.finish_reason is FinishReason.LENGTH else "stop" for c in wanted]
        assert [choice["finish_reason"] for choice in choices] == ends
        tokens = sum(len(c.token_ids) for c in wanted)
        assert found[number]["usage"] == {
            "prompt_tokens": len(ids), "completion_tokens": tokens, "total_tokens": len(ids) + tokens
        }  # fmt: skip


def test_log_probabilities_are_the_models_at_temperature_one(client: httpx2.Client, policy: Policy) -> None:
    """As lm-eval asks for the likelihood of a continuation: echo, no or one new token, prompts as ids."""
    ids = policy.tokenizer.encode("compute 2 + 3")
    with torch.no_grad():
        logp_TV = policy.decoder.logits(policy.decoder(torch.tensor([ids])))[0].log_softmax(-1)
    body = {"prompt": [ids, ids[:2]], "max_tokens": 0, "echo": True, "logprobs": 2, "temperature": 0}
    whole, part = ask(client, "completions", **body)["choices"]
    own = [float(logp_TV[t, i]) for t, i in enumerate(ids[1:])]
    assert whole["logprobs"]["token_logprobs"] == [None, *(pytest.approx(x, abs=1e-5) for x in own)]
    assert part["logprobs"]["token_logprobs"] == [None, pytest.approx(own[0], abs=1e-5)]
    assert whole["logprobs"]["tokens"] == ["compute", " 2", " +", " 3"]
    best = logp_TV[0].topk(2)
    names = policy.tokenizer.pieces(best.indices.tolist())
    assert whole["logprobs"]["top_logprobs"][1] == dict(
        zip(names, (pytest.approx(x, abs=1e-5) for x in best.values.tolist()), strict=True)
    )
    assert whole["text"] == "compute 2 + 3"
    greedy = ask(client, "completions", prompt="compute 2", max_tokens=3, temperature=0, logprobs=1)["choices"][0]
    logged = greedy["logprobs"]
    for name, logp, top in zip(logged["tokens"], logged["token_logprobs"], logged["top_logprobs"], strict=True):
        assert top == {name: logp}
    chat = {"messages": [{"role": "user", "content": "compute 2"}], "max_tokens": 3, "temperature": 0}
    rows = ask(client, "chat/completions", **chat, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert all(row["top_logprobs"][0] == {"token": row["token"], "logprob": row["logprob"]} for row in rows)


def test_a_long_text_is_scored_a_few_places_at_a_time(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = policy.tokenizer.encode("compute 2 + 3 " * 12)
    whole, made, logits = score_text(policy, ids, top=2), [], policy.decoder.logits
    monkeypatch.setattr(logprob, "CHUNK_ELEMENTS", 5 * len(policy.decoder.head_weight))
    monkeypatch.setattr(policy.decoder, "logits", lambda hidden: made.append(len(hidden)) or logits(hidden))
    parts = score_text(policy, ids, top=2)
    assert max(made) == 5 and sum(made) == len(ids) - 1
    assert parts.logprobs == pytest.approx(whole.logprobs, abs=1e-6)
    assert [[i for i, _ in row] for row in parts.top] == [[i for i, _ in row] for row in whole.top]


def test_texts_begin_as_a_published_tokenizer_begins_them(tmp_path: Path) -> None:
    words = word_tokenizer()
    first = words.backend.token_to_id("<unk>")  # any token that no question says
    words.backend.post_processor = TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", first)])
    words.save(tmp_path)
    policy = tiny_policy(seed=3, tokenizer=load_tokenizer(tmp_path))
    ids = [first, *policy.tokenizer.encode("compute 2 + 3")]
    read = {"max_tokens": 0, "echo": True, "logprobs": 0}
    with serving(Served("tiny", policy, tmp_path, build_batcher(policy))) as client:
        found = ask(client, "completions", prompt=["compute 2 + 3"], **read)
        assert found["choices"] == ask(client, "completions", prompt=[ids], **read)["choices"]
        (choice,) = found["choices"]
        assert choice["text"] == "compute 2 + 3" and found["usage"]["prompt_tokens"] == len(ids)
        assert choice["logprobs"]["tokens"] == ["<unk>", "compute", " 2", " +", " 3"]
        assert choice["logprobs"]["text_offset"] == [0, 0, 7, 9, 11]
        user = [{"role": "user", "content": "compute 2 + 3"}]
        chat = ask(client, "chat/completions", messages=user, max_tokens=1)
        assert chat["usage"]["prompt_tokens"] == len(policy.renderer.prompt("compute 2 + 3"))
        assert policy.renderer.prompt("compute 2 + 3")[0] == first


def test_tokens_stand_where_the_text_has_them_and_end_where_it_does(client: httpx2.Client) -> None:
    asked = {"prompt": "compute 2", "max_tokens": 12, "temperature": 0, "logprobs": 1, "echo": True}
    (whole,) = ask(client, "completions", **asked)["choices"]
    stop = whole["logprobs"]["tokens"][7].strip()
    (cut,) = ask(client, "completions", **asked, stop=stop)["choices"]
    assert len(cut["text"]) < len(whole["text"]) and whole["text"].startswith(cut["text"])
    for choice in (whole, cut):
        logged = choice["logprobs"]
        for token, at in zip(logged["tokens"], logged["text_offset"], strict=True):
            if token not in ("<eos>", "<pad>"):
                assert choice["text"][at : at + len(token)] == token[: len(choice["text"]) - at] != ""
        assert len({len(column) for column in logged.values()}) == 1
    assert len(cut["logprobs"]["tokens"]) < len(whole["logprobs"]["tokens"])


def test_characters_of_several_tokens_drop_none(tmp_path: Path) -> None:
    policy = tiny_policy(tokenizer=byte_tokenizer(), template="{question}")
    with serving(Served("tiny", policy, tmp_path, build_batcher(policy))) as client:
        for text in ("x = “the cat”", "日本 cat", "né🙂"):
            read = {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0}
            (choice,) = ask(client, "completions", **read)["choices"]
            assert choice["text"] == text
            assert {len(column) for column in choice["logprobs"].values()} == {len(policy.tokenizer.encode(text))}


@pytest.mark.parametrize("opened", [False, True])
def test_thinking_that_was_cut_is_no_answer(opened: bool, policy: Policy, tmp_path: Path) -> None:
    said = policy.tokenizer.encode("first 2" if opened else "<think> first 2")
    template = "{question} <think>" if opened else "{question}"
    asked = dataclasses.replace(policy, renderer=Renderer(policy.tokenizer, template))
    with serving(Served("tiny", asked, tmp_path, Batcher(asked, Saying(said)))) as client:
        body = {"messages": [{"role": "user", "content": "compute 2"}], "max_tokens": len(said)}
        message = ask(client, "chat/completions", **body)["choices"][0]["message"]
    assert message == {"role": "assistant", "reasoning_content": "first 2", "content": ""}


class Saying:
    """An engine that always says the same."""

    policy_version = 0

    def __init__(self, ids: list[int]) -> None:
        self.ids = tuple(ids)

    def generate(self, prompts: list[list[int]], seeds: list[list[int]], *_: Any, **__: Any) -> list[list[Completion]]:
        one = Completion(self.ids, (0.0,) * len(self.ids), FinishReason.LENGTH, 0)
        return [[one for _ in own] for own in seeds]

    def load_weights(self, decoder: Any, version: int) -> None: ...


def test_what_cannot_be_answered_is_said(client: httpx2.Client) -> None:
    user = [{"role": "user", "content": "compute 2"}]
    turns = [*user, {"role": "assistant", "content": "2"}, *user]
    read = {"max_tokens": 0, "echo": True}
    long = [{"role": "user", "content": "compute 2 " * 200}]
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        ("completions", {"model": "other", "prompt": "compute"}, 404, "only 'tiny'"),
        ("completions", {"prompt": "compute", "stream": True}, 400, "stream"),
        ("completions", {"prompt": "compute", "max_tokens": 0}, 400, "max_tokens is 0"),
        ("completions", {"prompt": "compute", "max_tokens": 999}, 400, "max_position_embeddings is 256"),
        ("completions", {"prompt": "xylophone"}, 400, "does not know"),
        ("completions", {}, 400, "prompt"),
        ("completions", {"prompt": []}, 400, "prompt is an empty list"),
        ("completions", {"prompt": "compute \ud800"}, 400, "half of a surrogate pair"),
        ("chat/completions", {"messages": user, "max_tokens": 0}, 400, "max_tokens is 0"),
        ("completions", {"prompt": [5, 99_999]}, 400, "prompt 0 has the token id 99999"),
        ("completions", {"prompt": [[5], [5, -1]], **read}, 400, "prompt 1 has the token id -1"),
        ("completions", {"prompt": [5, 99_999], **read, "logprobs": 1}, 400, "prompt 0 has the token id 99999"),
        ("completions", {"prompt": [5] * 300, **read, "logprobs": 1}, 400, "max_position_embeddings is 256"),
        ("completions", {"prompt": "compute", "n": 5_000}, 400, "5000 samples of 1 prompts"),
        ("completions", {"prompt": ["compute"] * 600, "n": 2}, 400, f"may ask for {MOST_WAITING} at most"),
        ("chat/completions", {"messages": long}, 400, "the prompt has 405 tokens"),
        ("chat/completions", {"messages": user, "n": 5_000}, 400, "5000 samples"),
        ("chat/completions", {"messages": [{"role": "user", "content": ["a"]}]}, 400, "needs a role"),
        ("chat/completions", {"messages": turns}, 400, "no chat template"),
    ]
    for path, body, status, said in cases:
        reply = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert reply.status_code == status and said in reply.json()["error"]["message"], reply.text
    assert client.get("models").json()["data"][0]["id"] == "tiny"


def test_a_request_that_comes_again_is_answered_once(policy: Policy, tmp_path: Path) -> None:
    batcher = build_batcher(policy)
    with serving(Served("tiny", policy, tmp_path, batcher)) as client:
        body = {"prompt": "compute", "max_tokens": 5}
        key = {"Idempotency-Key": "one"}
        first, again = (client.post("completions", json=body, headers=key).json() for _ in range(2))
        assert first == again and client.post("completions", json=body).json()["id"] != first["id"]
        other = client.post("completions", json={**body, "prompt": "first"}, headers=key)
        assert other.status_code == 422 and "'one' came with another request" in other.json()["error"]["message"]


def test_as_many_samples_wait_as_may(policy: Policy, tmp_path: Path) -> None:
    batcher = build_batcher(policy)
    with serving(Served("tiny", policy, tmp_path, batcher)) as client:
        body = {"prompt": "compute", "max_tokens": 1, "n": 3}
        batcher.waiting += MOST_WAITING - 2
        full = client.post("completions", json=body)
        assert full.status_code == 429 and full.headers["Retry-After"] == "1"
        batcher.waiting -= 1
        assert client.post("completions", json=body).status_code == 200
        batcher.waiting -= MOST_WAITING - 3
        assert batcher.waiting == 0


class Slow:
    """An engine that answers nothing before it is let go, and then what it was told to."""

    policy_version = 0

    def __init__(self, end: BaseException | None = None) -> None:
        self.end, self.entered, self.go = end, threading.Event(), threading.Event()
        self.asked: list[tuple[list[list[int]], SamplingParams]] = []

    def generate(self, prompts: list[list[int]], _: Any, params: SamplingParams, **__: Any) -> list[list[Completion]]:
        self.asked.append((prompts, params))
        self.entered.set()
        assert self.go.wait(60)
        if self.end:
            raise self.end
        return [[Completion(tuple(ids), (0.0,) * len(ids), FinishReason.END, 0)] for ids in prompts]

    def load_weights(self, decoder: Any, version: int) -> None: ...


def test_what_is_cancelled_is_left_out_and_the_others_are_answered(policy: Policy) -> None:
    engine = Slow()
    batcher = Batcher(policy, engine)
    params = SamplingParams(2)
    first = batcher.sample([5], [1], params)
    assert engine.entered.wait(60)
    other = batcher.sample([7], [1], SamplingParams(2, stop=("x",)))  # in no batch with the others
    gone = (batcher.sample([6], [1], params), batcher.score([5, 6], top=1), other)
    kept = batcher.sample([8], [1, 2], params), batcher.score([5, 6], top=1)
    colder = SamplingParams(2, temperature=0.5)
    alone, with_it = batcher.sample([9], [1], colder), batcher.sample([4], [1], params)
    assert batcher.waiting == 9 and all(one.cancel() for one in gone) and not first.cancel()
    engine.go.set()
    assert [one.result(60)[0].token_ids for one in (first, kept[0])] == [(5,), (8,)]
    assert len(kept[1].result(60).logprobs) == 1
    assert [alone.result(60)[0].token_ids, with_it.result(60)[0].token_ids] == [(9,), (4,)]
    assert all(params == (colder if [9] in prompts else SamplingParams(2)) for prompts, params in engine.asked)
    assert [prompts for prompts, params in engine.asked if params == colder] == [[[9]]]
    batcher.close()
    assert batcher.waiting == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_refuses_all_that_waits_and_all_that_comes(policy: Policy) -> None:
    engine = Slow(SystemExit(3))
    batcher = Batcher(policy, engine)
    params = SamplingParams(2)
    under_way = batcher.sample([5], [1], params)
    assert engine.entered.wait(60)
    waiting = batcher.score([5, 6], top=1), batcher.sample([6], [1], params)
    engine.go.set()
    for one in (under_way, *waiting, batcher.sample([7], [1], params)):
        with pytest.raises(EndpointError, match=r"ended with SystemExit\(3\): start the server again"):
            one.result(60)
    batcher.close()
    assert batcher.waiting == 0
    closed = build_batcher(policy)
    closed.close()
    with pytest.raises(EndpointError, match="is closed"):
        closed.score([5, 6], top=1).result(60)


def test_ours_is_a_teacher(client: httpx2.Client, policy: Policy, tmp_path: Path) -> None:
    """What rejection sampling gets over HTTP is what the model said, thinking and answer in their tags."""
    (tmp_path / "problems").mkdir()
    row = {"id": "p", "problem": "compute 2 + 3", "answer": "5", "task": "number"}
    (tmp_path / "problems" / "train.jsonl").write_text(json.dumps(row) + "\n")
    endpoint = reject.Endpoint(url=str(client.base_url), model="tiny", attempts=1)
    settings = reject.Settings(endpoint=endpoint, samples=3, max_new_tokens=6, well_formed=False)
    with pytest.raises(aha.errors.DataError, match="no sample of 3 is left"):  # an untrained model is right in nothing
        reject.run(settings, {"problems": tmp_path / "problems"}, Context(tmp_path, name="s", seed=1, run_seed=0))
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    ids = policy.renderer.prompt("compute 2 + 3")
    params = SamplingParams(6, end_token_ids=policy.tokenizer.end_token_ids)
    for row in rows:
        seed = stream(stream(1, "sample", *row["key"]) % 2**31, "served", 0, 0)
        ((wanted,),) = build_loaded_engine(policy).generate([ids], [[seed]], params)
        assert row["text"] == policy.tokenizer.decode(wanted.token_ids) and row["tokens"] == len(wanted.token_ids)


def test_the_command_serves_a_folder(tmp_path: Path, policy: Policy) -> None:
    save_policy(policy, tmp_path / "mine")
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1])}
    words = [sys.executable, "-m", "aha", "serve", str(tmp_path / "mine"), "--port", "0"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = next(line.split(" at ")[1].strip() for line in process.stderr if line.startswith("serving mine at"))
        chat = {"model": "mine", "messages": [{"role": "user", "content": "compute 2"}], "max_tokens": 2}
        reply = httpx2.post(f"{url}/chat/completions", json=chat, timeout=60)
        process.terminate()
    assert reply.json()["choices"][0]["message"]["role"] == "assistant"
