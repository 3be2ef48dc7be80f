"""``transformers.generate``'s side of benchmarks/rollout.py: one padded batch, a row is done at its own length."""

from __future__ import annotations

import gpu_clock
import torch
import transformers
import turns
from transformers import StoppingCriteria, StoppingCriteriaList


def main() -> None:
    folder, setting = turns.read_setting()
    torch.set_num_threads(setting["threads"])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, setting["dtype"]))
    model.to(setting["device"])
    ids = torch.tensor(setting["prompts"], device=setting["device"])
    prompt_tokens = ids.shape[1]
    lengths = [length for own in setting["lengths"] for length in own]
    ends = prompt_tokens + torch.tensor(lengths, device=setting["device"])

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
            max_new_tokens=max(lengths),
            pad_token_id=0,
            eos_token_id=None,
            stopping_criteria=StoppingCriteriaList([OwnLength()]),
        )
        assert out.shape == (len(ends), prompt_tokens + max(lengths))

    with torch.no_grad():
        first = model(ids).logits[:, -1].argmax(-1)
    turns.take_turns(run, first.tolist(), gpu_clock.measure if setting["device"] == "cuda" else turns.measure)


if __name__ == "__main__":
    main()
