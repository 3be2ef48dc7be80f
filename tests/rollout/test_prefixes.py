"""A prompt that continues what was read before is read from there on, and gives what it gives when read whole."""

from __future__ import annotations

import pytest
import torch

from aha.errors import SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.prefixes import Plain, PrefixCache, hash_beginnings

CONFIG = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
LATENT = ModelConfig(
    model_type="deepseek_v3",
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    kv_lora_rank=8,
    q_lora_rank=6,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    moe_intermediate_size=12,
    first_k_dense_replace=1,
    num_nextn_predict_layers=1,
    max_position_embeddings=64,
)
PARAMS = SamplingParams(5)


def engine(prefix_bytes: int, seed: int = 0, config: ModelConfig = CONFIG) -> NativeEngine:
    made = NativeEngine(config, prefix_bytes=prefix_bytes)
    made.load_weights(build_decoder(config, seed=seed), 0)
    return made


@pytest.mark.parametrize("config", [CONFIG, LATENT], ids=["grouped", "latent"])
def test_a_continued_prompt_is_read_once_and_sampled_alike(config: ModelConfig) -> None:
    plain, keeping = engine(0, config=config), engine(1 << 20, config=config)
    prompts, seeds = [[1, 2, 3, 4], [5, 6]], [[11, 12], [13]]
    first = plain.generate(prompts, seeds, PARAMS)
    assert keeping.generate(prompts, seeds, PARAMS) == first
    assert keeping.read_tokens == plain.read_tokens == 6 and keeping.sampled_tokens == 15
    longer = [[*prompts[p], *c.token_ids, *more] for p, g, more in ((0, 0, ()), (0, 1, (7, 8)), (1, 0, (9,)))
              for c in [first[p][g]]]  # fmt: skip
    longer.append([1, 2, 3, 30, 31])  # leaves a known text in its middle
    longer.append([33, 34])  # is not known
    own = [[21, 22], [23], [24], [25], [26]]
    whole, continued = plain.generate(longer, own, PARAMS), keeping.generate(longer, own, PARAMS)
    assert [[c.token_ids for c in group] for group in continued] == [[c.token_ids for c in group] for group in whole]
    for group, other in zip(continued, whole, strict=True):
        for a, b in zip(group, other, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    assert plain.read_tokens == 6 + sum(map(len, longer))
    assert keeping.read_tokens == 6 + 1 + 3 + 2 + 2 + 2  # the last sampled token of a completion was not read yet
    assert keeping.sampled_tokens == plain.sampled_tokens


def test_kept_prefixes_and_drafts_exclude_each_other() -> None:
    with pytest.raises(SettingError, match="speculate is 1 and prefix_bytes 64"):
        NativeEngine(LATENT, prefix_bytes=64, speculate=1)


def test_a_kept_prefix_holds_no_more_memory_than_is_counted() -> None:
    keeping = engine(1 << 20)
    keeping.generate([[1, 2], [3] * 40], [[11], [12]], PARAMS)
    assert keeping._prefixes is not None
    entries = keeping._prefixes._entries.values()
    assert len(entries) == 4
    for entry in entries:
        tensor = entry.kept.cache if isinstance(entry.kept, Plain) else entry.kept.words  # type: ignore[attr-defined]
        assert tensor.untyped_storage().nbytes() == entry.kept.nbytes


def test_new_weights_forget_what_the_old_ones_read() -> None:
    keeping, fresh = engine(1 << 20), engine(0, seed=1)
    keeping.generate([[1, 2, 3, 4]], [[11]], PARAMS)
    keeping.load_weights(build_decoder(CONFIG, seed=1), 1)
    before = keeping.read_tokens
    (group,) = keeping.generate([[1, 2, 3, 4, 5]], [[12]], PARAMS)
    assert keeping.read_tokens - before == 5
    assert group[0].token_ids == fresh.generate([[1, 2, 3, 4, 5]], [[12]], PARAMS)[0][0].token_ids


def read(length: int) -> Plain:
    return Plain(torch.arange(length, dtype=torch.float32).view(1, 1, 1, length, 1))


def test_the_longest_unused_is_forgotten_first() -> None:
    cache = PrefixCache(max_bytes=4 * 7)

    def store(*ids: int) -> None:
        cache.store(ids, hash_beginnings(ids), read(len(ids)))

    def longest(*ids: int) -> list[float] | None:
        found = cache.longest(ids, hash_beginnings(ids))
        return None if found is None else found.cache.flatten().tolist()  # type: ignore[attr-defined]

    store(1, 2, 3)
    store(1, 2, 9)
    assert longest(1, 2, 3, 4) == [0, 1, 2]
    store(5, 6)  # 8 tokens: [1, 2, 9] goes, [1, 2, 3] was used
    assert longest(5, 6, 7) == [0, 1] and longest(1, 2, 3, 4) == [0, 1, 2]
    assert longest(1, 2, 9, 4) in (None, [0, 1])
    assert longest(5, 6) == [0]  # a token is left to read
    store(*range(8))  # larger than everything
    assert longest(*range(9)) is None
    cache.clear()
    assert longest(5, 6, 7) is None


def test_an_entry_that_goes_leaves_the_beginnings_that_another_answers_for() -> None:
    cache = PrefixCache(max_bytes=4 * 6)
    for ids in ([1, 2, 3], [1, 2, 4], [5]):  # the third makes the first go
        cache.store(ids, hash_beginnings(ids), read(len(ids)))
    assert not cache.has([1, 2, 3], hash_beginnings([1, 2, 3])) and cache.has([1, 2], hash_beginnings([1, 2]))
    found = cache.longest([1, 2, 7], hash_beginnings([1, 2, 7]))
    assert found is not None and found.length == 2


def test_a_text_that_fills_all_that_may_be_kept_is_kept_and_equal_hashes_are_not_equal_texts() -> None:
    cache = PrefixCache(max_bytes=4 * 3)
    hashes = hash_beginnings([1, 2, 3])
    cache.store([1, 2, 3], hashes, read(3))
    assert cache.has([1, 2, 3], hashes) and not cache.has([1, 2, 9], hashes)
    assert cache.longest([1, 2, 9, 4], hash_beginnings([4], hashes)) is not None
    assert cache.longest([7, 8, 9, 4], hash_beginnings([4], hashes)) is None


def test_a_text_behind_an_entry_leaves_it_the_beginnings_and_keeps_it_alive() -> None:
    cache = PrefixCache(max_bytes=4 * 9)
    prompt = hash_beginnings([1, 2])
    for ids in ([1, 2], [7, 8], [1, 2, 3, 4]):
        hashes = hash_beginnings(ids[2:], prompt) if len(ids) > 2 else hash_beginnings(ids)
        assert hashes == hash_beginnings(ids)
        cache.store(ids, hashes, read(len(ids)), behind=2 if len(ids) > 2 else 0)
    cache.store([9, 9], hash_beginnings([9, 9]), read(2))  # 10 tokens: [7, 8] goes, though [1, 2] is older
    assert cache.has([1, 2], prompt) and not cache.has([7, 8], hash_beginnings([7, 8]))
    found = cache.longest([1, 2, 3, 5], hash_beginnings([1, 2, 3, 5]))
    assert found is not None and found.length == 3
    cache.store([6] * 5, hash_beginnings([6] * 5), read(5))  # now [1, 2] and [9, 9] go, and its beginnings with it
    assert cache.has([1, 2, 3], hash_beginnings([1, 2, 3])) and not cache.has([1, 2], prompt)


def test_a_prompt_is_forgotten_after_its_continuation() -> None:
    cache = PrefixCache(max_bytes=4 * 9)
    prompt = hash_beginnings([1, 2])
    cache.store([1, 2], prompt, read(2))
    cache.store([1, 2, 3, 4], hash_beginnings([3, 4], prompt), read(4), behind=2)
    cache.store([9] * 4, hash_beginnings([9] * 4), read(4))  # 10 tokens: one has to go
    assert not cache.has([1, 2, 3], hash_beginnings([1, 2, 3]))
    found = cache.longest([1, 2, 7], hash_beginnings([1, 2, 7]))  # another text with the same prompt
    assert found is not None and found.length == 2


def test_a_prompt_may_fill_the_positions_where_its_own_limit_is_small() -> None:
    groups = engine(0).generate([[1] * 62, [2]], [[1], [2]], SamplingParams(20), limits=[[2], [20]])
    assert [len(group[0].token_ids) for group in groups] == [2, 20]
