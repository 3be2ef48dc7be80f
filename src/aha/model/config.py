"""The shape of a decoder: what Hugging Face's ``config.json`` says, as one frozen value."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, PositiveFloat, PositiveInt, model_validator

from aha.config import Amount, Frozen

ModelType = Literal["llama", "mistral", "qwen2", "qwen3", "deepseek_v2", "deepseek_v3"]


class RopeScaling(Frozen):
    """How rotary frequencies are stretched for a longer context than ``original_max_position_embeddings``.

    ``linear`` divides all by ``factor``; ``llama3`` and ``yarn`` divide the slow ones and blend in between. YaRN also
    scales cosines and sines (``attention_factor``, else from ``mscale`` and ``mscale_all_dim``, else ``0.1 ln(factor) +
    1``), and latent attention its scores (``mscale_all_dim``). Names and meanings are Hugging Face's.
    """

    rope_type: Literal["linear", "llama3", "yarn"]
    factor: PositiveFloat
    original_max_position_embeddings: PositiveInt | None = None
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: PositiveFloat | None = None
    truncate: bool | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        yarn = {"beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate"}
        uses = {"linear": set(), "llama3": {"low_freq_factor", "high_freq_factor"}, "yarn": yarn}[self.rope_type]
        uses |= {"rope_type", "factor", "original_max_position_embeddings"}
        if unused := sorted(self.model_dump(exclude_none=True).keys() - uses):
            raise ValueError(f"{self.rope_type} rotary scaling does not use {', '.join(unused)}")
        if self.rope_type != "linear" and self.original_max_position_embeddings is None:
            raise ValueError(f"{self.rope_type} rotary scaling needs original_max_position_embeddings")
        if self.rope_type == "llama3":
            low, high = self.low_freq_factor, self.high_freq_factor
            if low is None or high is None or not low < high:
                raise ValueError(f"llama3 rotary scaling needs low_freq_factor {low} < high_freq_factor {high}")
        return self


class ModelConfig(Frozen):
    """Names and meanings are Hugging Face's; the default of ``tie_word_embeddings`` is ours (tiny models tie).

    ``head_dim`` left out (or ``None``) becomes ``hidden_size // num_attention_heads``; with latent attention it is
    ``qk_rope_head_dim``, what is rotated. The fields from ``q_lora_rank`` on belong to deepseek_v2 and deepseek_v3:
    latent attention (``kv_lora_rank`` and what follows), and a mixture of experts in every layer from
    ``first_k_dense_replace`` on. ``num_nextn_predict_layers`` modules of multi-token prediction (``model/mtp.py``)
    stand behind the layers, in a body of any kind. Raises ``SettingError`` for shapes that cannot be: heads that do
    not divide, an odd ``head_dim``, more experts chosen than there are, a special token outside the vocabulary.
    """

    model_type: ModelType = "llama"
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)] = 0
    rope_theta: PositiveFloat = 10000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: PositiveInt | None = None  # mistral: sequences longer than it are refused
    rms_norm_eps: PositiveFloat = 1e-6
    max_position_embeddings: PositiveInt = 2048
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    num_nextn_predict_layers: Amount = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    q_lora_rank: PositiveInt | None = None  # None: queries are not compressed
    kv_lora_rank: Amount = 0
    qk_nope_head_dim: Amount = 0
    qk_rope_head_dim: Amount = 0
    v_head_dim: Amount = 0
    rope_interleave: bool = True  # rotated pairs are (0, 1), (2, 3), ... and not (0, H/2), (1, H/2 + 1), ...
    n_routed_experts: Amount = 0
    n_shared_experts: Amount = 0
    num_experts_per_tok: Amount = 0
    moe_intermediate_size: Amount = 0
    first_k_dense_replace: Amount = 0
    n_group: PositiveInt = 1
    topk_group: PositiveInt = 1
    norm_topk_prob: bool | None = None  # left out: as published, true in deepseek_v3 alone
    routed_scaling_factor: PositiveFloat = 1.0

    @property
    def qkv_bias(self) -> bool:
        """Whether the query, key and value projections have a bias: always in qwen2, by choice in llama."""
        return self.model_type == "qwen2" or self.attention_bias

    @property
    def o_bias(self) -> bool:
        """Whether the output projection of attention has a bias: only llama with ``attention_bias``."""
        return self.attention_bias

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are RMS-normalised per head before rotation: qwen3."""
        return self.model_type == "qwen3"

    @property
    def latent_attention(self) -> bool:
        """Whether keys and values come from a latent vector (MLA): deepseek_v2 and deepseek_v3."""
        return self.model_type in ("deepseek_v2", "deepseek_v3")

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that is computed as it was trained."""
        return min(self.max_position_embeddings, self.sliding_window or self.max_position_embeddings)

    @property
    def longest_by(self) -> str:
        """The setting that ``longest`` is."""
        return "max_position_embeddings" if self.longest == self.max_position_embeddings else "sliding_window"

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """``eos_token_id`` as a tuple, empty when there is none."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    def has_experts(self, layer: int) -> bool:
        """Whether the feed-forward of ``layer`` (from 0; then those of the modules) is a mixture of experts."""
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
        if self.latent_attention:
            self._check_latent_attention()
            self._check_experts()
        else:
            self._check_grouped_attention()
        if self.attention_bias and self.model_type != "llama":
            raise ValueError(f"attention_bias is a choice of llama alone; model_type is {self.model_type}")
        if self.sliding_window is not None and self.model_type != "mistral":
            raise ValueError(f"sliding_window is a choice of mistral alone; model_type is {self.model_type}")
        for name, ids in (("bos_token_id", () if self.bos_token_id is None else (self.bos_token_id,)),
                          ("eos_token_id", self.end_token_ids)):
            for token in ids:
                if not 0 <= token < self.vocab_size:
                    raise ValueError(f"{name} {token} is outside the vocabulary of {self.vocab_size}")
        return self

    def _check_grouped_attention(self) -> None:
        width, heads = self.hidden_size, self.num_attention_heads
        if (self.model_type == "llama" or self.head_dim == 0) and width % heads:
            raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
        if self.head_dim == 0:
            # Not an assignment: the derived value does not count as set, so a changed copy derives it again.
            object.__setattr__(self, "head_dim", width // heads)
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is not a positive even number (rotation pairs its halves)")
        if heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        foreign = {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                   "n_routed_experts"}  # fmt: skip
        if given := sorted(name for name in foreign if getattr(self, name)):
            raise ValueError(f"{', '.join(given)}: only deepseek_v2 and deepseek_v3 have this; model_type is "
                             f"{self.model_type}")

    def _check_latent_attention(self) -> None:
        for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.model_type} needs {name}, at least 1")
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim {self.qk_rope_head_dim} is odd (rotation takes pairs)")
        if self.head_dim not in (0, self.qk_rope_head_dim):
            raise ValueError(f"head_dim {self.head_dim} is not qk_rope_head_dim {self.qk_rope_head_dim}")
        object.__setattr__(self, "head_dim", self.qk_rope_head_dim)
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} is not num_attention_heads "
                f"{self.num_attention_heads}: with latent attention every head has keys and values of its own"
            )

    def _check_experts(self) -> None:
        if self.norm_topk_prob is None:
            object.__setattr__(self, "norm_topk_prob", self.model_type == "deepseek_v3")
        experts, chosen = self.n_routed_experts, self.num_experts_per_tok
        if not experts:
            return
        if not self.moe_intermediate_size:
            raise ValueError("experts need moe_intermediate_size, at least 1")
        if experts % self.n_group:
            raise ValueError(f"n_routed_experts {experts} is not a multiple of n_group {self.n_group}")
        size = experts // self.n_group
        if self.model_type == "deepseek_v3" and size < 2:
            raise ValueError(f"{self.n_group} groups of {size} expert: a group is judged by its best two")
        if self.topk_group > self.n_group:
            raise ValueError(f"topk_group {self.topk_group} is more than n_group {self.n_group}")
        if not 1 <= chosen <= self.topk_group * size:
            raise ValueError(
                f"num_experts_per_tok {chosen} is not in 1 .. {self.topk_group * size}: {self.topk_group} groups of "
                f"{size} experts may be chosen from"
            )
        if self.model_type == "deepseek_v2" and self.norm_topk_prob:
            raise ValueError("norm_topk_prob is true; deepseek_v2 does not normalise the weights of chosen experts")
        if self.model_type == "deepseek_v2" and not self.rope_interleave:
            raise ValueError("rope_interleave is false; deepseek_v2 always rotates neighbouring dimensions")
