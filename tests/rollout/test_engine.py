"""The engine against the decoder it copies: tokens, log-probabilities, independence of neighbours, finish reasons."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from aha.errors import CheckpointError, DataError, InvariantError, SettingError
from aha.model import kernels
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.records import FinishReason
from aha.rollout.engine import SamplingParams
from aha.rollout.native import weights
from aha.rollout.native.engine import NativeEngine, build_runner, sampled_itemsize
from aha.rollout.native.rows import ENDED, FULL, STOPPED, SUSPECT
from aha.rollout.native.runner import Runner
from aha.rollout.native.weights import decoder_digest, digest_of

LATENT: dict[str, Any] = {
    "model_type": "deepseek_v3", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 12, "qk_nope_head_dim": 7,
    "qk_rope_head_dim": 6, "v_head_dim": 9, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3,
    "moe_intermediate_size": 10, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
    "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {
    "llama": ModelConfig(
        model_type="llama",
        vocab_size=40,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        attention_bias=True,
        max_position_embeddings=64,
    ),
    "qwen2": ModelConfig(
        model_type="qwen2",
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ),
    "qwen3": ModelConfig(
        model_type="qwen3",
        vocab_size=40,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
        max_position_embeddings=64,
    ),
    "llama3-scaled": ModelConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_scaling={  # type: ignore[arg-type]
            "rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        max_position_embeddings=64,
    ),
    "v3": ModelConfig(**LATENT, q_lora_rank=14, n_group=4, topk_group=2, tie_word_embeddings=False),
    "v3-yarn": ModelConfig(
        **{**LATENT, "rope_interleave": False, "n_shared_experts": 0, "v_head_dim": 14},
        rope_scaling={  # type: ignore[arg-type]
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "mscale": 0.7,
            "mscale_all_dim": 1.0,
        },
    ),
    "v2": ModelConfig(**{**LATENT, "model_type": "deepseek_v2", "routed_scaling_factor": 1.0}),
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13], [3, 2, 1, 3]]


def _decoder(config: ModelConfig, seed: int = 0, scale: float = 8.0) -> Decoder:
    """Weights large enough for peaked, prompt-dependent distributions; biases and norms that are not trivial."""
    decoder = build_decoder(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            else:
                parameter.mul_(scale * 0.02 * parameter.shape[-1] ** 0.5)
        for bias in decoder.buffers():
            bias.add_(torch.randn(bias.shape, generator=generator) * 0.2)
    return decoder


def _engine(config: ModelConfig, decoder: Decoder, **settings: object) -> NativeEngine:
    engine = NativeEngine(config, **settings)  # type: ignore[arg-type]
    engine.load_weights(decoder, 3)
    return engine


def _text(ids: Sequence[int]) -> str:
    return "".join(chr(ord("A") + i) for i in ids)


def _seeds(samples: int, prompts: int = len(PROMPTS)) -> list[list[int]]:
    return [[1000 * p + g for g in range(samples)] for p in range(prompts)]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_equals_the_decoders_own_argmax(name: str) -> None:
    config = CONFIGS[name]
    decoder = _decoder(config)
    answers = _engine(config, decoder, max_slots=3).generate(
        PROMPTS, _seeds(2), SamplingParams(max_new_tokens=12, temperature=0.0)
    )
    for prompt, group in zip(PROMPTS, answers, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(12):
                ids.append(int(decoder.logits(decoder(torch.tensor([ids])))[0, -1].argmax()))
        assert [c.token_ids for c in group] == [tuple(ids[len(prompt) :])] * 2
        assert {c.finish_reason for c in group} == {FinishReason.LENGTH} and {c.policy_version for c in group} == {3}


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_equal_a_teacher_forced_pass_of_the_decoder(name: str) -> None:
    config = CONFIGS[name]
    decoder = _decoder(config)
    params = SamplingParams(max_new_tokens=20, temperature=0.7, top_k=30, top_p=0.9, end_token_ids=(5, 17))
    answers = _engine(config, decoder, max_slots=6).generate(PROMPTS, _seeds(4), params)
    lengths = set()
    for prompt, group in zip(PROMPTS, answers, strict=True):
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
    assert len(lengths) > 3


@pytest.mark.parametrize("name", CONFIGS)
def test_score_equals_the_decoder(name: str) -> None:
    config = CONFIGS[name]
    decoder = _decoder(config)
    scores = _engine(config, decoder).score(PROMPTS)
    for ids, got in zip(PROMPTS, scores, strict=True):
        with torch.no_grad():
            logp = decoder.logits(decoder(torch.tensor([ids])))[0, :-1].log_softmax(-1)
        expected = logp.gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)
        assert torch.allclose(torch.tensor(got), expected, atol=1e-5)


def test_a_sample_does_not_depend_on_neighbours_slots_or_order() -> None:
    config = CONFIGS["qwen2"]
    decoder = _decoder(config, scale=5.0)
    params = SamplingParams(max_new_tokens=25, end_token_ids=(5, 17, 30))
    seeds = _seeds(5)
    reference = _engine(config, decoder).generate(PROMPTS, seeds, params)
    assert len({c.token_ids for group in reference for c in group}) > 20
    assert len({len(c.token_ids) for group in reference for c in group}) > 5
    for max_slots in (1, 2, 7):
        got = _engine(config, decoder, max_slots=max_slots).generate(PROMPTS, seeds, params)
        assert [[c.token_ids for c in g] for g in got] == [[c.token_ids for c in g] for g in reference]
        assert [[c.finish_reason for c in g] for g in got] == [[c.finish_reason for c in g] for g in reference]
    engine = _engine(config, decoder, max_slots=4)
    backwards = engine.generate(PROMPTS[::-1], [own[::-1] for own in seeds[::-1]], params)
    assert [[c.token_ids for c in g[::-1]] for g in backwards[::-1]] == [[c.token_ids for c in g] for g in reference]
    alone = engine.generate([PROMPTS[2]], [[seeds[2][3]]], params)  # also: an arena that holds old numbers
    assert alone[0][0].token_ids == reference[2][3].token_ids


def test_first_tokens_follow_the_decoders_softmax() -> None:
    config = CONFIGS["llama"]
    decoder = _decoder(config, scale=4.0)
    n = 4000
    group = _engine(config, decoder).generate([[1, 2, 3]], [list(range(n))], SamplingParams(max_new_tokens=2))[0]
    with torch.no_grad():
        first = decoder.logits(decoder(torch.tensor([[1, 2, 3]])))[0, -1].softmax(-1).double()
        rows = torch.tensor([[1, 2, 3, v] for v in range(config.vocab_size)])
        second = (decoder.logits(decoder(rows))[:, -1].softmax(-1).double() * first[:, None]).sum(0)
    for place, expected in ((0, first), (1, second)):
        counts = torch.bincount(torch.tensor([c.token_ids[place] for c in group]), minlength=config.vocab_size)
        common = expected * n >= 5
        chi_square = float(((counts - n * expected) ** 2 / (n * expected))[common].sum())
        assert chi_square < 90  # at most 39 degrees of freedom: p < 1e-5


def test_a_group_shares_one_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS["qwen2"]
    read: list[list[int]] = []
    engine = _engine(config, _decoder(config), max_slots=4)
    runner = type(engine._runner)
    plain = runner.prefill

    def prefill(self: object, prompts: Sequence[Sequence[int]]) -> object:
        read.extend(list(ids) for ids in prompts)
        return plain(self, prompts)

    monkeypatch.setattr(runner, "prefill", prefill)
    engine.generate(PROMPTS, _seeds(6), SamplingParams(max_new_tokens=7, end_token_ids=(5,)))
    assert sorted(read) == sorted(PROMPTS)


def test_end_tokens_and_length() -> None:
    config = CONFIGS["qwen2"]
    engine = _engine(config, _decoder(config, scale=4.0), max_slots=8)
    ends = (5, 17, 30)
    group = engine.generate([[1, 2]], [list(range(60))], SamplingParams(max_new_tokens=15, end_token_ids=ends))[0]
    for completion in group:
        ended = completion.token_ids[-1] in ends
        assert completion.finish_reason == (FinishReason.END if ended else FinishReason.LENGTH)
        assert ended or len(completion.token_ids) == 15
        assert not set(completion.token_ids[:-1]) & set(ends)
    assert {c.token_ids[-1] for c in group} >= set(ends)
    assert FinishReason.LENGTH in {c.finish_reason for c in group}


def test_one_new_token_needs_no_decode_step() -> None:
    config = CONFIGS["llama"]
    group = _engine(config, _decoder(config)).generate([[1]], [[1, 2, 3]], SamplingParams(max_new_tokens=1))[0]
    assert [len(c.token_ids) for c in group] == [1, 1, 1]


def test_stop_strings_end_a_text_at_their_first_appearance() -> None:
    config = CONFIGS["llama"]
    decoder = _decoder(config, scale=3.0)
    params = SamplingParams(max_new_tokens=40, end_token_ids=(7,))
    free = _engine(config, decoder, detokenize=_text).generate([[1, 2]], [list(range(40))], params)[0]
    pairs = [_text(c.token_ids)[i : i + 2] for c in free for i in range(len(c.token_ids) - 1)]
    # Two pairs that do occur; H is the end token.
    stop = tuple(sorted({p for p in pairs if "H" not in p}, key=lambda p: (pairs.count(p), p))[-2:])
    engine = _engine(config, decoder, max_slots=5, detokenize=_text)
    stopping = SamplingParams(max_new_tokens=40, end_token_ids=(7,), stop=stop)
    held = engine.generate([[1, 2]], [list(range(40))], stopping)[0]
    for before, after in zip(free, held, strict=True):
        text = _text(before.token_ids)
        found = [text.index(s) + len(s) for s in stop if s in text]
        length = min(found, default=len(text))
        assert _text(after.token_ids) == text[:length]
        assert after.logprobs == pytest.approx(before.logprobs[:length], abs=1e-5)
        assert after.finish_reason == (FinishReason.STOP if found else before.finish_reason)
    assert {FinishReason.STOP} < {c.finish_reason for c in held}


def test_digest_follows_the_weights() -> None:
    for config in CONFIGS.values():
        decoder = _decoder(config)
        engine = _engine(config, decoder)
        old = engine.digest()
        assert old == decoder_digest(decoder, config)
        with torch.no_grad():
            list(decoder.parameters())[-1].view(-1)[0] += 1e-6
        assert decoder_digest(decoder, config) != old == engine.digest()  # the engine's weights are its own
        engine.load_weights(decoder, 4)
        assert engine.digest() == decoder_digest(decoder, config) and engine.policy_version == 4
        with torch.no_grad():  # two rows change places
            weight = decoder.model.layers[0].self_attn.o_proj.weight
            weight[[0, 1]] = weight[[1, 0]]
        assert decoder_digest(decoder, config) != engine.digest()


def test_a_released_engine_needs_weights_and_samples_as_before() -> None:
    config = CONFIGS["qwen2"]
    decoder = _decoder(config)
    engine = _engine(config, decoder)
    params = SamplingParams(max_new_tokens=5)
    before = engine.generate(PROMPTS, _seeds(2), params)
    engine.release()
    with pytest.raises(InvariantError, match="call load_weights first"):
        engine.generate(PROMPTS, _seeds(2), params)
    engine.load_weights(decoder, before[0][0].policy_version)
    assert engine.generate(PROMPTS, _seeds(2), params) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_digest_is_that_of_plain_sums_in_whatever_blocks_a_tensor_comes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = torch.randn(300, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = digest_of([("a", matrix), ("b", matrix[0])], dtype)
    assert digest_of([*(("a", block) for block in torch.split(matrix, 77)), ("b", matrix[0])], dtype) == whole
    matrix[[3, 5]] = matrix[[5, 3]]
    swapped = digest_of([("a", matrix), ("b", matrix[0])], dtype)
    assert swapped != whole
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    monkeypatch.setattr(weights, "DIGEST_CHUNK", 1_000)
    assert digest_of([("a", matrix), ("b", matrix[0])], dtype) == swapped


def test_the_digest_sees_the_bias_of_a_router_exactly_in_any_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        decoder = _decoder(CONFIGS["v3"])
        engine = _engine(CONFIGS["v3"], decoder, dtype=dtype)
        assert engine.digest() == decoder_digest(decoder, CONFIGS["v3"], dtype=dtype)
        decoder.model.layers[1].mlp.gate.e_score_correction_bias[0] += 1e-6
        assert engine.digest() != decoder_digest(decoder, CONFIGS["v3"], dtype=dtype)
        engine.load_weights(decoder, 4)
        assert engine.digest() == decoder_digest(decoder, CONFIGS["v3"], dtype=dtype)


@pytest.mark.parametrize("name", ["v3", "v3-yarn", "v2"])
def test_latent_attention_caches_latent_and_rotary_key_alone(name: str) -> None:
    config = CONFIGS[name]
    runner = Runner(config, dtype=torch.float32, device=torch.device("cpu"))
    runner.load(_decoder(config))
    runner.begin(2, 16, SamplingParams(max_new_tokens=4), ())
    prefix = runner.prefill([[1, 2, 3]])[0]
    assert prefix.cache.shape == (config.num_hidden_layers, 1, 1, 3, 12 + 6)


def test_bfloat16_samples_close_to_the_decoder_in_bfloat16() -> None:
    config = CONFIGS["qwen3"]
    decoder = _decoder(config, scale=4.0)
    engine = _engine(config, decoder, dtype=torch.bfloat16)
    assert engine.digest() == decoder_digest(decoder, config, dtype=torch.bfloat16)
    group = engine.generate(PROMPTS, _seeds(3), SamplingParams(max_new_tokens=10))
    half = decoder.to(torch.bfloat16)
    for prompt, completions in zip(PROMPTS, group, strict=True):
        for c in completions:
            ids = torch.tensor([[*prompt, *c.token_ids]])
            with torch.no_grad():
                logp = half.logits(half(ids))[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            gap = logp.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1) - torch.tensor(c.logprobs)
            assert float(gap.abs().max()) < 0.15


@pytest.mark.parametrize("name", ["qwen3", "v3"])
def test_without_bf16_instructions_its_weights_are_computed_in_float32(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are the decoder's as they read in BF16, all else is exact; so it agrees with float32's arithmetic."""
    monkeypatch.setattr("aha.model.product._multiplies_bf16", lambda: False)
    monkeypatch.setattr("aha.rollout.native.engine.load_kernels", lambda: None)
    config = CONFIGS[name]
    decoder = _decoder(config, scale=2.0)
    engine = _engine(config, decoder, dtype=torch.bfloat16)
    assert engine.dtype == torch.bfloat16
    assert engine.digest() == decoder_digest(decoder, config, dtype=torch.bfloat16)
    rounded = copy.deepcopy(decoder)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.bfloat16())
    for prompt, completions in zip(
        PROMPTS, engine.generate(PROMPTS, _seeds(2), SamplingParams(max_new_tokens=10)), strict=True
    ):
        for c in completions:
            ids = torch.tensor([[*prompt, *c.token_ids]])
            with torch.no_grad():
                logp = rounded.logits(rounded(ids))[0, len(prompt) - 1 : -1].log_softmax(-1)
            gap = logp.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1) - torch.tensor(c.logprobs)
            assert float(gap.abs().max()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("compiled", [True, False])
def test_estimates_count_the_numbers_that_a_runner_has(
    compiled: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without BF16 instructions: what is not compiled keeps BF16 in float32."""
    monkeypatch.setattr("aha.model.product._multiplies_bf16", lambda: False)
    if not compiled:
        monkeypatch.setattr("aha.rollout.native.engine.load_kernels", lambda: None)
    cpu = {"dtype": dtype, "device": torch.device("cpu")}
    for speculate in (0, 1) if dtype != torch.int8 else (0,):
        config = CONFIGS["v3"].model_copy(update={"num_nextn_predict_layers": 1}) if speculate else CONFIGS["qwen3"]
        runner = build_runner(config, **cpu, speculate=speculate)
        assert sampled_itemsize(config, **cpu, speculate=speculate) == runner.bytes_per_number


def test_what_cannot_be_is_refused() -> None:
    config = CONFIGS["llama"]
    params = SamplingParams(max_new_tokens=10)
    engine = NativeEngine(config)
    with pytest.raises(InvariantError, match="load_weights"):
        engine.generate([[1]], [[1]], params)
    engine = _engine(config, _decoder(config))
    with pytest.raises(DataError, match=r"prompt 1 has 55 .* 65 together, .* 64: shorten it to 54 .* or lower .* to 9"):
        engine.generate([[1], [1] * 55], [[1], [1]], params)
    with pytest.raises(DataError, match="is 64: lower max_new_tokens to 62$"):
        engine.generate([[1, 1]], [[1]], SamplingParams(64))
    with pytest.raises(DataError, match="is 64: shorten both$"):
        engine.generate([[1] * 64], [[1]], SamplingParams(64))
    with pytest.raises(DataError, match="no tokens"):
        engine.generate([[]], [[1]], params)
    with pytest.raises(DataError, match="token id 40"):
        engine.generate([[40]], [[1]], params)
    with pytest.raises(DataError, match="2 prompts"):
        engine.generate([[1], [2]], [[1]], params)
    with pytest.raises(SettingError, match="detokenize"):
        engine.generate([[1]], [[1]], SamplingParams(max_new_tokens=2, stop=("x",)))
    with pytest.raises(SettingError, match="cache_bytes"):
        _engine(config, _decoder(config), cache_bytes=100).generate([[1]], [[1]], params)
    with pytest.raises(SettingError, match="top_p"):
        SamplingParams(max_new_tokens=2, top_p=0.0)
    with pytest.raises(CheckpointError, match="embed_tokens"):
        engine.load_weights(build_decoder(config.model_copy(update={"vocab_size": 41}), seed=0), 1)
    with pytest.raises(InvariantError):  # a failed copy leaves no usable version
        _ = engine.policy_version


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])  # tied: every row has a NaN; untied: those that read token 5
def test_weights_that_are_not_finite_are_named_and_leave_nothing_behind(name: str, temperature: float) -> None:
    config, params = CONFIGS[name], SamplingParams(max_new_tokens=12, temperature=temperature)
    good, bad = _decoder(config), _decoder(config)
    with torch.no_grad():
        bad.model.embed_tokens.weight[5] = torch.nan
    engine = _engine(config, bad, max_slots=6)
    where = "prompt 0, sample 0" if config.tie_word_embeddings else "prompt 2, sample 0"
    with pytest.raises(InvariantError, match=f"{where}: weights or logits are not finite.* version 3 "):
        engine.generate(PROMPTS, _seeds(2), params)
    engine.load_weights(good, 3)
    prompts = [[1] * 8, [2], [4]]  # the last goes where the broken one was, and has masked columns beside the first
    again = engine.generate(prompts, _seeds(2, 3), params)
    assert again == _engine(config, good, max_slots=6).generate(prompts, _seeds(2, 3), params)


def test_weights_that_break_while_sampling_are_found() -> None:
    config = CONFIGS["qwen3"]
    decoder, params = _decoder(config, scale=4.0), SamplingParams(max_new_tokens=30)
    before = _engine(config, decoder).generate([[1, 2]], [[7]], params)[0][0].token_ids
    with torch.no_grad():
        decoder.model.embed_tokens.weight[before[9]] = torch.nan
    with pytest.raises(InvariantError, match="prompt 0, sample 0: weights or logits are not finite"):
        _engine(config, decoder).generate([[1, 2]], [[7]], params)


def test_a_small_cache_only_limits_how_many_run_at_once() -> None:
    config = CONFIGS["qwen2"]
    decoder = _decoder(config, scale=5.0)
    params = SamplingParams(max_new_tokens=9)
    token_bytes = 2 * 2 * 2 * 8 * 4
    small = _engine(config, decoder, cache_bytes=token_bytes * 16 * 2).generate(PROMPTS, _seeds(3), params)
    large = _engine(config, decoder).generate(PROMPTS, _seeds(3), params)
    assert [[c.token_ids for c in g] for g in small] == [[c.token_ids for c in g] for g in large]


def test_an_end_token_goes_before_a_stop_string_and_that_before_the_length() -> None:
    engine = NativeEngine(CONFIGS["qwen2"])
    reported = [(0, ENDED | STOPPED | FULL), (1, SUSPECT | STOPPED | FULL), (2, FULL)]
    assert engine._judge(reported, SamplingParams(4)) == {
        0: FinishReason.END, 1: FinishReason.STOP, 2: FinishReason.LENGTH
    }  # fmt: skip
