"""``transformers.generate``'s side of benchmarks/rollout.py: one padded batch, a row is done at its own length."""

from __future__ import annotations

import torch
import transformers
from transformers import StoppingCriteria, StoppingCriteriaList
from turns import read_setting, take_turns


def main() -> None:
    folder, setting = read_setting()
    torch.set_num_threads(setting["threads"])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, setting["dtype"]))
    ids = torch.tensor(setting["prompts"])
    prompt_tokens = ids.shape[1]
    ends = prompt_tokens + torch.tensor([length for own in setting["lengths"] for length in own])

    class OwnLength(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
            return input_ids.shape[1] >= ends

    def run() -> None:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=len(ends) // len(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=int(ends.max()) - prompt_tokens,
            pad_token_id=0,
            eos_token_id=None,
            stopping_criteria=StoppingCriteriaList([OwnLength()]),
        )
        assert out.shape == (len(ends), int(ends.max()))

    with torch.no_grad():
        first = model(ids).logits[:, -1].argmax(-1)
    take_turns(run, first.tolist())


if __name__ == "__main__":
    main()
