"""Steps of fixed shapes sample what the plain runner samples, run as they are, and recorded once and replayed."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recorded import OneDevice, RecordedGraph, recording

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.records import Completion
from aha.rollout.engine import SamplingParams
from aha.rollout.native import engine as engines
from aha.rollout.native import graphs
from aha.rollout.native.engine import NativeEngine, build_runner
from aha.rollout.native.graphs import GraphRunner, Graphs, is_captured, round_rows
from aha.rollout.native.memory import estimate_rollout
from aha.rollout.native.runner import Runner

CPU = torch.device("cpu")
LATENT: dict[str, Any] = {
    "model_type": "deepseek_v3", "num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 12,
    "qk_nope_head_dim": 7, "qk_rope_head_dim": 6, "v_head_dim": 9, "q_lora_rank": 14, "tie_word_embeddings": False,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3": {"model_type": "qwen3", "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
              "tie_word_embeddings": False},
    "latent": LATENT,
    "experts": {**LATENT, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3,
                "moe_intermediate_size": 10, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2},
}  # fmt: skip
PARAMS = {
    "plain": SamplingParams(21, end_token_ids=(5, 17)),
    "greedy": SamplingParams(21, temperature=0.0),
    "cut": SamplingParams(21, temperature=0.7, top_k=30, top_p=0.9, end_token_ids=(5, 17)),
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13], [3, 2, 1, 3]]
SEEDS = [[1000 * p + g for g in range(5)] for p in range(len(PROMPTS))]
LIMITS = [[4, 21, 9, 16, 2], [21, 1, 6, 12, 3], [7, 7, 20, 1, 15], [2, 21, 5, 8, 11], [13, 3, 18, 6, 21]]


def decoder_of(kind: str) -> Decoder:
    config = ModelConfig(
        vocab_size=40, hidden_size=24 if kind != "qwen2" else 32, intermediate_size=32, num_hidden_layers=2,
        max_position_embeddings=64, **KINDS[kind],
    )  # fmt: skip
    return build_decoder(config, seed=0)


def roll_out(runner: Runner, decoder: Decoder, params: SamplingParams, *, max_slots: int) -> list[list[Completion]]:
    """Completions of unequal lengths: rows end, others take their slots or move into them, columns grow and shrink."""
    engine = NativeEngine(decoder.config, max_slots=max_slots)
    engine._held = runner
    engine.load_weights(decoder, 0)
    return engine.generate(PROMPTS, SEEDS, params, limits=LIMITS)


def assert_same(found: list[list[Completion]], wanted: list[list[Completion]]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
        assert [c.finish_reason for c in ours] == [c.finish_reason for c in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, rel=3e-6, abs=3e-6)


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize(("kind", "max_slots"), [("qwen2", 3), ("qwen3", 25), ("latent", 11), ("experts", 7)])
def test_steps_of_fixed_shapes_sample_what_plain_ones_do(
    kind: str, params: str, max_slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts, too, though they are never captured: a dead row goes to experts like any."""
    decoder = decoder_of(kind)
    plain = Runner(decoder.config, dtype=torch.float32, device=CPU)
    wanted = roll_out(plain, decoder, PARAMS[params], max_slots=max_slots)
    assert len({len(c.token_ids) for group in wanted for c in group}) > 5
    monkeypatch.setattr(GraphRunner, "_column_step", 8)  # so that columns change
    fixed = GraphRunner(decoder.config, dtype=torch.float32, device=CPU)
    assert_same(roll_out(fixed, decoder, PARAMS[params], max_slots=max_slots), wanted)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Graphs`` as on a GPU, with graphs that are recorded and replayed here."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr("torch.cuda.CUDAGraph", RecordedGraph)
    monkeypatch.setattr("torch.cuda.graph", recording)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: stream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr(graphs, "_side_stream", lambda device: stream)
    monkeypatch.setattr(graphs, "Graphs", lambda device: Graphs(torch.device("cuda")))
    monkeypatch.setattr("aha.rollout.native.matrix._can_pack", lambda weight: False)  # as on a GPU: one storage


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "latent"])
def test_a_recorded_step_replays_for_other_rows_than_it_saw(
    kind: str, params: str, recorded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the tensors may say which rows live, where they stand and what they have."""
    decoder = decoder_of(kind)
    plain = Runner(decoder.config, dtype=torch.float32, device=CPU)
    wanted = roll_out(plain, decoder, PARAMS[params], max_slots=11)
    monkeypatch.setattr(GraphRunner, "_column_step", 8)
    monkeypatch.setattr(graphs, "_EAGER_STEPS", 0)
    fixed = GraphRunner(decoder.config, dtype=torch.float32, device=CPU)
    assert_same(roll_out(fixed, decoder, PARAMS[params], max_slots=11), wanted)
    captured = fixed._graphs._captured
    assert len(captured) > 2 and len({rows for rows, _ in captured}) > 2 and len({n for _, n in captured}) > 1
    assert max(graph.replays for graph, _ in captured.values()) > 3  # type: ignore[attr-defined]
    earlier = fixed._graphs
    assert_same(roll_out(fixed, decoder, PARAMS[params], max_slots=11), wanted)  # rows anew: and so the graphs
    assert fixed._graphs is not earlier


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "latent"])
def test_a_step_asks_its_device_nothing(kind: str, params: str, dtype: torch.dtype) -> None:
    """On a device that has shapes and no numbers, by the ways that are not the CPU's."""
    runner = GraphRunner(decoder_of(kind).config, dtype=dtype, device=torch.device("meta"))
    runner.begin(12, 48, PARAMS[params])
    runner._fit(16)
    with OneDevice("meta"):
        runner._advance(12)


def test_a_recording_refuses_what_a_graph_cannot_do(recorded: None) -> None:
    decoder = decoder_of("experts")
    fixed = GraphRunner(decoder.config, dtype=torch.float32, device=CPU)
    with pytest.raises(AssertionError, match="bincount.* cannot be captured"):
        roll_out(fixed, decoder, PARAMS["plain"], max_slots=11)


def test_a_shape_is_captured_after_a_few_steps_and_keeps_what_it_reads(recorded: None) -> None:
    done = torch.zeros((), dtype=torch.int64)
    held = torch.ones(3)
    runs = graphs.Graphs(CPU)
    for _ in range(graphs._EAGER_STEPS):
        runs.run((4, 32), lambda: done.add_(1), reads=(held,))
    assert not runs._captured and done == graphs._EAGER_STEPS
    for _ in range(3):
        runs.run((4, 32), lambda: done.add_(1), reads=(held,))
    assert done == graphs._EAGER_STEPS + 3
    (graph, reads), = runs._captured.values()
    assert graph.replays == 3 and reads[0] is held  # type: ignore[attr-defined]
    runs.run((8, 32), lambda: done.add_(1), reads=(held,))
    assert list(runs._captured) == [(4, 32)]


@torch.inference_mode()
@pytest.mark.parametrize("params", ["plain", "cut"])
@pytest.mark.parametrize("way", ["as it is", "recorded"])
def test_rows_past_the_live_ones_keep_their_state_wherever_they_stand(
    way: str, params: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that is beyond the columns that there are now and the tokens that a row may have. All steps have the
    same shape, of 12 rows, but other rows live in each."""
    if way == "recorded":
        request.getfixturevalue("recorded")
        monkeypatch.setattr(graphs, "_EAGER_STEPS", 0)
    decoder, asked = decoder_of("qwen2"), SamplingParams(6, temperature=0.7, top_p=0.9 if params == "cut" else 1.0)
    found = []
    for kind in (Runner, GraphRunner):
        monkeypatch.setattr(kind, "_column_step", 16)
        runner = kind(decoder.config, dtype=torch.float32, device=CPU)
        runner.load(decoder)
        runner.begin(12, 48, asked)
        reports = []
        runner.admit(range(9), [runner.prefill([ids])[0] for ids in PROMPTS + PROMPTS[:4]], range(9), [6] * 9)
        for num_live in (9, 11, 10, 9, 12):
            if num_live in (11, 12):
                new = range(9, num_live)
                runner.admit(new, [runner.prefill([PROMPTS[2]])[0] for _ in new], new, [5] * len(new))
            runner._positions[num_live:], runner._counts[num_live:], runner._tokens[num_live:] = 47, 6, 39
            before = [state[num_live:].clone() for state in runner._row_states()]
            reports.append(runner.step(num_live, 16))
            after = [state[num_live:] for state in runner._row_states()]
            assert all(torch.equal(new, old) for new, old in zip(after, before, strict=True))
        found.append((reports, runner._row_states(), runner._arena[..., :12, :]))
        if isinstance(runner, GraphRunner) and way == "recorded":
            assert list(runner._graphs._captured) == [(12, 16)]
    (reports, states, cache), (own_reports, own_states, own_cache) = found
    assert own_reports == reports and [slot for slot, _ in reports[-1]] == list(range(9))
    for state, own in zip(states, own_states, strict=True):
        torch.testing.assert_close(own, state, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(own_cache, cache, rtol=3e-6, atol=3e-6)


def test_rows_are_rounded_up_to_few_numbers() -> None:
    rounded = [round_rows(number, 512) for number in range(1, 513)]
    assert sorted(set(rounded)) == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert all(n <= up < 2 * n for n, up in enumerate(rounded, start=1))
    assert [round_rows(number, 20) for number in (15, 16, 17, 20)] == [16, 16, 20, 20]


def test_a_gpu_captures_steps_but_not_of_experts_and_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    for name in ("Runner", "GraphRunner", "SpeculativeRunner"):
        monkeypatch.setattr(engines, name, lambda *_, name=name, **__: built.append(name))
    dense = decoder_of("qwen2").config.model_copy(update={"num_nextn_predict_layers": 1})
    gpu: dict[str, Any] = {"dtype": torch.bfloat16, "device": torch.device("cuda")}
    build_runner(dense, **gpu, speculate=0)
    build_runner(dense, **gpu, speculate=1)
    build_runner(decoder_of("experts").config, **gpu, speculate=0)
    assert built == ["GraphRunner", "SpeculativeRunner", "Runner"]
    assert not is_captured(dense, CPU, speculate=0)


def test_the_estimate_counts_a_graphs_memory_beside_the_rest() -> None:
    sizes: dict[str, Any] = {
        "prompts": 4, "samples": 16, "prompt": 16, "max_new_tokens": 16, "cache_bytes": 1 << 30
    }  # fmt: skip
    config = decoder_of("qwen2").config
    plain, captured = (estimate_rollout(config, **sizes, captured=captured) for captured in (False, True))
    assert captured.held == plain.held
    # Of 64 rows, 4 heads, 32 columns a graph has scores, their sums and weights, 4 bytes each, and what is computed in
    # place without one (workspace.py) the first and the last.
    assert captured.working - plain.working == 64 * 4 * 32 * (12 - 8)
