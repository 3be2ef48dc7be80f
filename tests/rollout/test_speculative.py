"""Drafts change nothing but the number of steps: tokens, distributions, log-probs, finish reasons; and they are the
modules' own, counted one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aha.errors import InvariantError, SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.records import Completion, FinishReason
from aha.rollout.engine import SamplingParams
from aha.rollout.native import acceptance
from aha.rollout.native.acceptance import draft, verify
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.weights import decoder_digest
from aha.rollout.sync import sync_weights

LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 6, "v_head_dim": 5,
    "n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
    "first_k_dense_replace": 1, "tie_word_embeddings": False,
}  # fmt: skip
KINDS = {
    "llama": {"num_key_value_heads": 1, "attention_bias": True},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": False},
    "deepseek_v3": {**LATENT, "q_lora_rank": 10, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.0},
    "deepseek_v2": LATENT,
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 0, 1, 2, 3, 4], [2, 6], [3, 2, 1, 3], [6]]


def build(kind: str = "qwen2", *, vocab: int = 7, modules: int = 3, scale: float = 1.6, seed: int = 0) -> Decoder:
    """Few tokens and peaked distributions: a module that knows nothing still agrees with the body now and then."""
    config = ModelConfig(
        model_type=kind,
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_nextn_predict_layers=modules,
        **KINDS[kind],
    )
    decoder = build_decoder(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            else:
                parameter.mul_(scale)
        for bias in decoder.buffers():
            bias.add_(torch.randn(bias.shape, generator=generator) * 0.2)
    return decoder


def engine_of(decoder: Decoder, **settings: object) -> NativeEngine:
    engine = NativeEngine(decoder.config, **settings)  # type: ignore[arg-type]
    engine.load_weights(decoder, 3)
    return engine


def seeds_of(samples: int, prompts: int = len(PROMPTS)) -> list[list[int]]:
    return [[1000 * p + g for g in range(samples)] for p in range(prompts)]


def tokens_of(groups: Sequence[Sequence[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[c.token_ids for c in group] for group in groups]


def slow_drafts(decoder: Decoder, sequence: list[int], num: int) -> list[int]:
    """The most likely continuation by each module in turn, from whole sequences and without a cache."""
    place, full = len(sequence) - 2, list(sequence)
    for k in range(1, num + 1):
        ids, following = torch.tensor([full[:-1]]), torch.tensor([full[1:]])
        with torch.no_grad():
            states = decoder.forward_ahead(ids, following)
            full.append(int(decoder.logits(states[k][0, place]).argmax()))
    return full[len(sequence) :]


def slow_counts(decoder: Decoder, prompt: list[int], sampled: Sequence[int], num: int) -> tuple[int, list[int]]:
    """Steps and drafts kept, by module, until all of ``sampled`` is there."""
    have, steps, accepted = 1, 0, [0] * num
    while have < len(sampled):
        steps += 1
        kept = 0
        for k, drafted in enumerate(slow_drafts(decoder, [*prompt, *sampled[:have]], num)):
            if have + k == len(sampled) or drafted != sampled[have + k]:
                break
            accepted[k] += 1
            kept += 1
        have = min(len(sampled), have + kept + 1)
    return steps, accepted


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_the_same_and_the_drafts_are_the_modules_own(kind: str, num: int) -> None:
    decoder = build(kind)
    params = SamplingParams(max_new_tokens=16, temperature=0.0, end_token_ids=(5,))
    limits = [[16 - p, 6 + p] for p in range(len(PROMPTS))]  # uneven lengths, and two waiting for each that runs
    plain = engine_of(decoder).generate(PROMPTS, seeds_of(2), params, limits=limits)
    engine = engine_of(decoder, speculate=num, max_slots=5)
    drafted = engine.generate(PROMPTS, seeds_of(2), params, limits=limits)
    assert drafted == plain
    expected = [
        slow_counts(decoder, prompt, c.token_ids, num)
        for prompt, group in zip(PROMPTS, plain, strict=True)
        for c in group
    ]
    found = engine.speculation
    assert found is not None
    assert found.rows == sum(steps for steps, _ in expected)
    assert list(found.accepted) == [sum(column) for column in zip(*(kept for _, kept in expected), strict=True)]
    assert found.tokens == sum(len(c.token_ids) - 1 for group in plain for c in group)
    assert 0 < found.accepted[0] < found.rows  # both happen
    assert found.drafted == num * found.rows and found.steps < found.rows


def test_many_prompts_greedy() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 30, (60,), generator=generator).tolist()
    prompts = [torch.randint(0, 7, (length,), generator=generator).tolist() for length in lengths]
    decoder = build(seed=3)
    params = SamplingParams(max_new_tokens=30, temperature=0.0, end_token_ids=(6,))
    plain = engine_of(decoder).generate(prompts, seeds_of(1, 60), params)
    assert engine_of(decoder, speculate=2, max_slots=7).generate(prompts, seeds_of(1, 60), params) == plain
    assert len({len(group[0].token_ids) for group in plain}) > 4


def enumerate_completions(
    decoder: Decoder, prompt: list[int], params: SamplingParams
) -> dict[tuple[int, ...], float]:
    """The exact probability of every completion, from the decoder alone."""
    V, end, most = decoder.config.vocab_size, params.end_token_ids[0], params.max_new_tokens
    found = {}
    every = torch.tensor([[*prompt, *tail] for tail in itertools.product(range(V), repeat=most)])
    with torch.no_grad():
        logits = decoder.logits(decoder(every))[:, len(prompt) - 1 : -1].double() / params.temperature
    if params.top_k:
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[..., -1:], -torch.inf)
    probs = logits.softmax(-1).gather(-1, every[:, len(prompt) :, None]).squeeze(-1)
    for tail, steps in zip(every[:, len(prompt) :].tolist(), probs.tolist(), strict=True):
        length = tail.index(end) + 1 if end in tail else most
        product = 1.0
        for step in steps[:length]:
            product *= step
        found[tuple(tail[:length])] = product
    assert abs(sum(found.values()) - 1) < 1e-5
    return found


def p_value(counts: Tensor, expected: Tensor) -> float:
    """Chi-square with everything rarer than 5 in one cell."""
    common = expected >= 5
    cells = torch.cat((counts[common], counts[~common].sum()[None])).double()
    wanted = torch.cat((expected[common], expected[~common].sum()[None]))
    cells, wanted = cells[wanted >= 1], wanted[wanted >= 1]
    statistic = ((cells - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2).double(), statistic / 2))


@pytest.mark.parametrize(
    ("num", "params"),
    [
        (1, SamplingParams(4, end_token_ids=(1,))),
        (2, SamplingParams(4, end_token_ids=(1,))),
        (2, SamplingParams(4, temperature=0.7, top_k=3, end_token_ids=(1,))),
    ],
)
def test_completions_have_exactly_the_models_distribution(num: int, params: SamplingParams) -> None:
    decoder, draws = build(vocab=5, modules=2, scale=0.8), 20_000
    exact = enumerate_completions(decoder, [3, 0], params)
    engine = engine_of(decoder, speculate=num, max_slots=2_500)
    (group,) = engine.generate([[3, 0]], [list(range(draws))], params)
    index = {completion: i for i, completion in enumerate(exact)}
    counts = torch.bincount(torch.tensor([index[c.token_ids] for c in group]), minlength=len(index))
    expected = torch.tensor(list(exact.values()), dtype=torch.float64) * draws
    assert p_value(counts, expected) > 0.01 and not counts[expected == 0].any()
    assert engine.speculation is not None and 0.1 < engine.speculation.acceptance < 0.9
    wrong = expected.roll(1)  # the test can fail
    assert p_value(counts, wrong) < 1e-6


def test_kept_and_redrawn_tokens_follow_p_whatever_was_drafted() -> None:
    """Two drafts from distributions that have little to do with the model's, 200,000 times: the first two tokens are
    independent draws of p, and a draft is kept with the probability that p and q share."""
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    logits_TV, wrong_KV = torch.randn(3, 4, generator=generator), torch.randn(2, 4, generator=generator)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    seeds_B, index_B = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    drafts = [draft(wrong_KV[k].expand(n, -1), seeds_B, index_B + k, **settings) for k in range(2)]
    drafts_BK, probs_BKV = (torch.stack([d[i] for d in drafts], 1) for i in (0, 1))
    tokens_BT, logprobs_BT, kept_B = verify(
        logits_TV.expand(n, -1, -1), drafts_BK, probs_BKV, seeds_B, index_B, **settings
    )
    p_TV, q_KV = logits_TV.double().softmax(-1), wrong_KV.double().softmax(-1)
    shared = torch.minimum(p_TV[:2], q_KV).sum(-1)
    assert float((kept_B >= 1).double().mean()) == pytest.approx(float(shared[0]), abs=0.005)
    assert float((kept_B == 2).double().sum() / (kept_B >= 1).sum()) == pytest.approx(float(shared[1]), abs=0.005)
    assert p_value(torch.bincount(tokens_BT[:, 0], minlength=4), p_TV[0] * n) > 0.01
    pairs = tokens_BT[kept_B >= 1, :2]  # given a first draft that was kept, which has q's leaning
    second = torch.bincount(pairs[:, 1], minlength=4)
    assert p_value(second, p_TV[1] * len(pairs)) > 0.01
    third = tokens_BT[kept_B == 2, 2]
    assert p_value(torch.bincount(third, minlength=4), p_TV[2] * len(third)) > 0.01
    rejected = tokens_BT[kept_B == 0, 0]
    left = (p_TV[0] - q_KV[0]).clamp_min(0)
    assert p_value(torch.bincount(rejected, minlength=4), left / left.sum() * len(rejected)) > 0.01
    assert torch.allclose(logprobs_BT[:, 0], p_TV[0].log().float()[tokens_BT[:, 0]], atol=1e-6)


def test_a_draft_that_the_model_never_says_is_not_kept_by_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "uniforms", lambda seeds, index: torch.zeros(index.shape, dtype=torch.float64))
    logits, zero = torch.tensor([[[0.0, -torch.inf]] * 2]), torch.zeros(1, dtype=torch.int64)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    draft_11, offered_112 = torch.ones(1, 1, dtype=torch.int64), torch.full((1, 1, 2), 0.5)
    tokens, _, kept = verify(logits, draft_11, offered_112, zero, zero, **settings)
    assert kept.tolist() == [0] and tokens[0, 0] == 0


def test_where_rounding_leaves_nothing_of_p_over_q_a_token_of_p_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 1 - 2.0**-53
    monkeypatch.setattr(
        acceptance, "uniforms", lambda seeds, index: torch.full(index.shape, largest, dtype=torch.float64)
    )
    logits, zero = torch.tensor([[[0.0, 0.0, -torch.inf]] * 2]), torch.zeros(1, dtype=torch.int64)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    offered = torch.tensor([[[0.501, 0.501, 0.0]]])  # rounded up, far too much
    tokens, _, kept = verify(logits, torch.zeros(1, 1, dtype=torch.int64), offered, zero, zero, **settings)
    assert kept.tolist() == [0] and tokens[0, 0] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_equal_a_teacher_forced_pass_of_the_decoder(kind: str) -> None:
    decoder = build(kind, vocab=30, scale=1.1)
    params = SamplingParams(max_new_tokens=20, temperature=0.7, top_k=20, top_p=0.9, end_token_ids=(2, 5, 9, 17, 23))
    prompts = [ids if max(ids) < 30 else [1] for ids in PROMPTS]
    engine = engine_of(decoder, speculate=2, max_slots=6)
    lengths = set()
    for prompt, group in zip(prompts, engine.generate(prompts, seeds_of(4), params), strict=True):
        for completion in group:
            lengths.add(len(completion.token_ids))
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            with torch.no_grad():
                logits = decoder.logits(decoder(ids))[0, len(prompt) - 1 : -1].double() / params.temperature
            logits = logits.masked_fill(logits < logits.topk(params.top_k).values[:, -1:], -torch.inf)
            ordered = logits.softmax(-1).sort(descending=True)
            drop = ordered.values.cumsum(-1) - ordered.values >= params.top_p
            logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, ordered.indices, drop), -torch.inf)
            expected = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
            assert torch.allclose(torch.tensor(completion.logprobs).double(), expected, atol=1e-5)
    assert len(lengths) > 3 and engine.speculation is not None and engine.speculation.acceptance > 0


def test_a_sample_does_not_depend_on_neighbours_slots_or_order() -> None:
    decoder = build(vocab=20, scale=1.0)
    params = SamplingParams(max_new_tokens=25, end_token_ids=(5, 17))
    seeds = seeds_of(5)
    reference = engine_of(decoder, speculate=2).generate(PROMPTS, seeds, params)
    assert len({c.token_ids for group in reference for c in group}) > 20
    for max_slots in (1, 2, 7):
        got = engine_of(decoder, speculate=2, max_slots=max_slots).generate(PROMPTS, seeds, params)
        assert tokens_of(got) == tokens_of(reference)
        assert [[c.finish_reason for c in g] for g in got] == [[c.finish_reason for c in g] for g in reference]
    engine = engine_of(decoder, speculate=2, max_slots=4)
    backwards = engine.generate(PROMPTS[::-1], [own[::-1] for own in seeds[::-1]], params)
    assert [group[::-1] for group in tokens_of(backwards)[::-1]] == tokens_of(reference)
    alone = engine.generate([PROMPTS[2]], [[seeds[2][3]]], params)
    assert alone[0][0].token_ids == reference[2][3].token_ids


def text_of(ids: Sequence[int]) -> str:
    return "".join(chr(ord("A") + i) for i in ids)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ends_limits_and_stop_strings_cut_a_step_short(temperature: float) -> None:
    decoder = build(seed=2, scale=1.2)
    params = SamplingParams(max_new_tokens=24, temperature=temperature, end_token_ids=(6,), stop=("BC", "DD"))
    limits = [[2, 17, 24] for _ in PROMPTS]
    engine = engine_of(decoder, speculate=3, max_slots=5, detokenize=text_of)
    groups = engine.generate(PROMPTS, seeds_of(3), params, limits=limits)
    if temperature == 0.0:
        plain = engine_of(decoder, detokenize=text_of).generate(PROMPTS, seeds_of(3), params, limits=limits)
        assert groups == plain
    for group, own in zip(groups, limits, strict=True):
        for completion, limit in zip(group, own, strict=True):
            text = text_of(completion.token_ids)
            stopped, ended = "BC" in text or "DD" in text, completion.token_ids[-1] == 6
            assert "BC" not in text[:-1] and "DD" not in text[:-1] and 6 not in completion.token_ids[:-1]
            expected = FinishReason.END if ended else FinishReason.STOP if stopped else FinishReason.LENGTH
            assert completion.finish_reason == expected and len(completion.token_ids) <= limit
            assert expected != FinishReason.LENGTH or len(completion.token_ids) == limit
    if temperature:
        reasons = {c.finish_reason for group in groups for c in group}
        assert reasons == {FinishReason.END, FinishReason.STOP, FinishReason.LENGTH}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", ["model.layers.2.eh_proj.weight", "model.layers.0.mlp.up_proj.weight"])
def test_modules_that_are_not_finite_are_named_like_the_body(broken: str, temperature: float) -> None:
    decoder, params = build(), SamplingParams(max_new_tokens=12, temperature=temperature)
    engine = engine_of(decoder, speculate=1)
    good = engine.generate(PROMPTS, seeds_of(2), params)
    with torch.no_grad():
        whole = decoder.get_parameter(broken).clone()
        decoder.get_parameter(broken).fill_(torch.nan)
        engine.load_weights(decoder, 4)
        decoder.get_parameter(broken).copy_(whole)
    with pytest.raises(InvariantError, match="prompt 0, sample 0: weights or logits are not finite"):
        engine.generate(PROMPTS, seeds_of(2), params)
    engine.load_weights(decoder, 3)
    assert engine.generate(PROMPTS, seeds_of(2), params) == good


def test_digest_covers_the_modules_that_draft() -> None:
    decoder = build()
    with_one = engine_of(decoder, speculate=1)
    assert with_one.digest() == decoder_digest(decoder, decoder.config, ahead=1)
    assert engine_of(decoder).digest() == decoder_digest(decoder, decoder.config)
    assert engine_of(decoder, speculate=3).digest() == decoder_digest(decoder, decoder.config, ahead=3)
    before = decoder_digest(decoder, decoder.config), decoder_digest(decoder, decoder.config, ahead=1)
    with torch.no_grad():
        decoder.get_parameter("model.layers.2.eh_proj.weight")[0, 0] += 1e-3
    assert decoder_digest(decoder, decoder.config) == before[0]
    assert decoder_digest(decoder, decoder.config, ahead=1) != before[1] == with_one.digest()
    sync_weights(with_one, decoder, version=5)
    assert with_one.policy_version == 5


def test_a_small_cache_only_limits_how_many_run_at_once() -> None:
    decoder, params = build(), SamplingParams(max_new_tokens=9)
    token_bytes = 2 * (2 + 1) * 2 * 4 * 4
    small = engine_of(decoder, speculate=1, cache_bytes=token_bytes * 32 * 2).generate(PROMPTS, seeds_of(3), params)
    assert tokens_of(small) == tokens_of(engine_of(decoder, speculate=1).generate(PROMPTS, seeds_of(3), params))


def test_more_drafts_than_modules_are_refused() -> None:
    with pytest.raises(SettingError, match="speculate is 4, but the model has 3 modules"):
        NativeEngine(build().config, speculate=4)
    assert engine_of(build()).speculation is None
