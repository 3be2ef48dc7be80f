"""llama.cpp's side of benchmarks/rollout.py, run by an interpreter that has llama-cpp-python, gguf and safetensors:
``python llama_side.py FOLDER``.

As fast as it was found to go (each choice measured): a stream of cache for each sequence, prompts read once and copied
to the group's other streams, living sequences kept in the first streams, because a batch is split where they are not
neighbours, and sampling by its own sampler.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as lib
import numpy as np
from safetensors.numpy import load_file
from turns import read_setting, take_turns


def main() -> None:
    folder, setting = read_setting()
    path = folder / f"{setting['dtype']}.gguf"
    write_gguf(folder, path, setting["dtype"])
    lengths = [length for own in setting["lengths"] for length in own]
    prompts, group = setting["prompts"], len(setting["lengths"][0])
    columns = max(map(len, prompts)) + max(lengths)
    lib.llama_backend_init()
    lib.llama_log_set(_SILENT, ctypes.c_void_p(0))
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = -(-columns // 32) * 32 * len(lengths)
    params.n_batch = params.n_ubatch = max(sum(map(len, prompts)), len(lengths))
    params.n_seq_max, params.kv_unified = len(lengths), False
    params.n_threads = params.n_threads_batch = setting["threads"]
    context = lib.llama_init_from_model(model, params)
    memory = lib.llama_get_memory(context)
    batch = lib.llama_batch_init(params.n_batch, 0, 1)
    samplers = []
    for seed in range(len(lengths)):
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(1.0))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(seed))
        samplers.append(chain)

    def feed(rows: list[tuple[int, int, int, bool]]) -> None:
        batch.n_tokens = len(rows)
        for i, (token, position, stream, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = stream, wanted
        assert lib.llama_decode(context, batch) == 0

    def run() -> None:
        lib.llama_memory_clear(memory, True)
        firsts = range(0, len(lengths), group)
        feed([(t, i, s, i == len(p) - 1) for s, p in zip(firsts, prompts, strict=True) for i, t in enumerate(p)])
        ends = np.cumsum([len(p) for p in prompts]) - 1
        tokens = [lib.llama_sampler_sample(samplers[s], context, int(ends[s // group])) for s in range(len(lengths))]
        for s in range(len(lengths)):
            if s % group:
                lib.llama_memory_seq_cp(memory, s - s % group, s, -1, -1)
        made, live = [1] * len(lengths), list(range(len(lengths)))  # sequence in each stream
        while True:
            stream = 0
            while stream < len(live):  # who is done leaves, and the last stream moves into the hole
                if made[live[stream]] < lengths[live[stream]]:
                    stream += 1
                    continue
                last = len(live) - 1
                lib.llama_memory_seq_rm(memory, stream, -1, -1)
                if stream < last:
                    lib.llama_memory_seq_cp(memory, last, stream, -1, -1)
                    lib.llama_memory_seq_rm(memory, last, -1, -1)
                    live[stream] = live[last]
                live.pop()
            if not live:
                break
            feed([(tokens[q], len(prompts[q // group]) + made[q] - 1, s, True) for s, q in enumerate(live)])
            for s, q in enumerate(live):
                tokens[q] = lib.llama_sampler_sample(samplers[q], context, s)
                made[q] += 1
        assert made == lengths

    lib.llama_memory_clear(memory, True)
    feed([(t, i, s, i == len(p) - 1) for s, p in enumerate(prompts) for i, t in enumerate(p)])
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    ends = np.cumsum([len(p) for p in prompts]) - 1
    logits = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, int(end)), (vocab,)) for end in ends]
    take_turns(run, [int(row.argmax()) for row in logits])


def write_gguf(folder: Path, path: Path, dtype: str) -> None:
    """The weights of a Hugging Face folder as llama.cpp reads them, without a vocabulary."""

    config = json.loads((folder / "config.json").read_text())
    arch = config["model_type"]
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):  # its rotation pairs neighbours
            count = heads if "q_proj" in name else shared
            tensor = tensor.reshape(count, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        known = names.get_name(name, (".weight", ".bias"))
        assert known is not None, name
        _add(writer, known, tensor, half=dtype == "bfloat16" and tensor.ndim > 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, name: str, tensor: np.ndarray, *, half: bool) -> None:
    if half:
        packed = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.BF16)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor)


@lib.llama_log_callback
def _SILENT(level: int, text: bytes, data: Any) -> None:
    pass


if __name__ == "__main__":
    main()
