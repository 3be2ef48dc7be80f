"""vLLM's side of benchmarks/rollout.py, run by an interpreter that has it: ``python vllm_side.py FOLDER``.

Every request has a length of its own; the prompt's cache is shared by the samples of a group.
"""

from __future__ import annotations

import os

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, whose time and memory are measured
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from turns import read_setting, take_turns
from vllm import LLM, SamplingParams


def main() -> None:
    folder, setting = read_setting()
    torch.set_num_threads(setting["threads"])
    engine = LLM(
        str(folder),
        dtype=setting["dtype"],
        skip_tokenizer_init=True,
        max_model_len=1024,
        max_num_seqs=sum(map(len, setting["lengths"])),
        enable_prefix_caching=True,
        disable_log_stats=True,
    )
    flat = [(ids, length) for ids, own in zip(setting["prompts"], setting["lengths"], strict=True) for length in own]
    prompts = [{"prompt_token_ids": ids} for ids, _ in flat]
    greedy = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False)
    asked = [{"prompt_token_ids": ids} for ids in setting["prompts"]]
    first = [made.outputs[0].token_ids[0] for made in engine.generate(asked, greedy, use_tqdm=False)]
    params = [
        SamplingParams(temperature=1.0, max_tokens=length, min_tokens=length, ignore_eos=True, detokenize=False)
        for _, length in flat
    ]

    def run() -> None:
        engine.reset_prefix_cache()
        made = engine.generate(prompts, params, use_tqdm=False)
        assert [len(one.outputs[0].token_ids) for one in made] == [length for _, length in flat]

    take_turns(run, first)


if __name__ == "__main__":
    main()
