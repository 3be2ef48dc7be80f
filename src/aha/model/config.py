"""The shape of a decoder: what Hugging Face's ``config.json`` says, as one frozen value."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from aha.config import Frozen

ModelType = Literal["llama", "qwen2", "qwen3"]


class ModelConfig(Frozen):
    """Names and meanings are Hugging Face's; the default of ``tie_word_embeddings`` is ours (tiny models tie).

    ``head_dim`` left out (or ``None``) becomes ``hidden_size // num_attention_heads``. ``num_nextn_predict_layers``
    modules of multi-token prediction (``model/mtp.py``) stand behind the layers, in a body of any kind. Raises
    ``SettingError`` for shapes that cannot be: heads that do not divide, an odd ``head_dim``, a special token outside
    the vocabulary.
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
    rms_norm_eps: PositiveFloat = 1e-6
    max_position_embeddings: PositiveInt = 2048
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    num_nextn_predict_layers: NonNegativeInt = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

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
    def end_token_ids(self) -> tuple[int, ...]:
        """``eos_token_id`` as a tuple, empty when there is none."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
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
        if self.attention_bias and self.model_type != "llama":
            raise ValueError(f"attention_bias is a choice of llama alone; model_type is {self.model_type}")
        for name, ids in (("bos_token_id", () if self.bos_token_id is None else (self.bos_token_id,)),
                          ("eos_token_id", self.end_token_ids)):
            for token in ids:
                if not 0 <= token < self.vocab_size:
                    raise ValueError(f"{name} {token} is outside the vocabulary of {self.vocab_size}")
        return self
