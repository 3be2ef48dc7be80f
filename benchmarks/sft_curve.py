"""Supervised fine-tuning of a folder by us and by transformers on the same batches: two loss curves, one number.

    python -m benchmarks.sft_curve MODEL PROBLEMS [--steps 10] [--batch 4] [--out FOLDER]

MODEL is a Hugging Face folder, PROBLEMS a file of rows with ``problem`` and ``solution``, such as GSM8K's. We pack the
examples into one row; transformers gets them one by one. Both are float32 with AdamW and clipped gradients. Exits with
1 where two losses of a step differ by more than 1e-4. With ``--out`` our weights are written there, and the difference
of transformers' logits on them from ours is printed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from aha.data.files import load_rows
from aha.model.folder import load_model, save_model
from aha.tokens.tokenizer import load_tokenizer
from aha.train.batch import Document, collate_packed
from aha.train.nll_step import nll_step
from aha.train.optimizer import build_adamw

LR, MAX_NORM, ALLOWED = 2e-5, 1.0, 1e-4


def examples(tokenizer_folder: Path, problems: Path) -> list[Document]:
    """Ids of each question and its solution, and which of them are learned: the solution's and the end."""
    tokenizer = load_tokenizer(tokenizer_folder)
    found: list[Document] = []
    for row in load_rows(problems):
        prompt = tokenizer.encode_from_start(f"Question: {row['problem']}\nAnswer: ")
        solution = [*tokenizer.encode(row["solution"]), tokenizer.eos_id]
        found.append(([*prompt, *solution], [0.0] * len(prompt) + [1.0] * len(solution)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("problems", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ours, config = load_model(options.model)
    theirs = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    theirs.eval()  # no dropout, as in ours
    optimizers = build_adamw(ours, lr=LR), build_adamw(theirs, lr=LR)
    documents, size = examples(options.model, options.problems), options.batch
    worst = 0.0
    for step in range(options.steps):
        batch = documents[step * size : (step + 1) * size]
        packed = collate_packed(batch, width=sum(len(ids) for ids, _ in batch))
        loss = nll_step(ours, optimizers[0], packed, lr=LR, max_grad_norm=MAX_NORM)["loss"]
        total = sum(sum(mask) for _, mask in batch)
        other = 0.0
        for ids, mask in batch:
            logits = theirs(torch.tensor([ids])).logits[0, :-1]
            nll = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            part = (nll * torch.tensor(mask[1:])).sum() / total
            part.backward()
            other += float(part.detach())
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), MAX_NORM)
        optimizers[1].step()
        optimizers[1].zero_grad()
        worst = max(worst, abs(loss - other))
        print(f"step {step + 1}: ours {loss:.6f}, transformers {other:.6f}, apart {abs(loss - other):.1e}", flush=True)
    print(f"largest difference of {options.steps} steps: {worst:.1e}")
    if options.out:
        options.out.mkdir(parents=True)
        save_model(ours, config, options.out)
        for file in options.model.glob("token*"):
            shutil.copy(file, options.out)
        again = AutoModelForCausalLM.from_pretrained(options.out, dtype=torch.float32)
        ids = torch.tensor([list(batch[0][0])])
        with torch.no_grad():
            apart = float((again(ids).logits - ours.logits(ours(ids))).abs().max())
        print(f"transformers on {options.out}: logits {apart:.1e} from ours")
    sys.exit(worst > ALLOWED)


if __name__ == "__main__":
    main()
