# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the Hugging Face tensors from a .pth file of the models of LLMs-from-scratch, buffers left out."""

import numpy as np
from read_torch import read as read_torch

LLAMA = {
    "att.W_query": "self_attn.q_proj", "att.W_key": "self_attn.k_proj", "att.W_value": "self_attn.v_proj", "att.out_proj": "self_attn.o_proj",
    "att.q_norm": "self_attn.q_norm", "att.k_norm": "self_attn.k_norm", "ff.fc1": "mlp.gate_proj", "ff.fc2": "mlp.up_proj", "ff.fc3": "mlp.down_proj",
    "ff.gate": "mlp.gate", "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
}  # fmt: skip
GPT2 = {
    "att.out_proj": "attn.c_proj", "att.proj": "attn.c_proj", "att.qkv": "attn.c_attn", "ff.layers.0": "mlp.c_fc", "ff.layers.2": "mlp.c_proj",
    "norm1": "ln_1", "norm2": "ln_2",
}  # fmt: skip
TOP = {
    False: {"tok_emb": "model.embed_tokens", "final_norm": "model.norm", "out_head": "lm_head"},
    True: {"tok_emb": "transformer.wte", "pos_emb": "transformer.wpe", "final_norm": "transformer.ln_f", "out_head": "lm_head"},
}
KINDS = {"weight": "weight", "bias": "bias", "scale": "weight", "shift": "bias"}


def transposed(tensor):
    dtype, shape, data = tensor
    whole = np.frombuffer(data, f"V{len(data) // int(np.prod(shape))}").reshape(shape).T
    return dtype, whole.shape, whole.tobytes()


def rename_llama(layer, rest):
    fc, _, expert = rest.rpartition(".")
    if fc in LLAMA and expert.isdigit():
        return f"model.layers.{layer}.mlp.experts.{expert}.{LLAMA[fc].removeprefix('mlp.')}"
    return f"model.layers.{layer}.{LLAMA[rest]}"


def read(path):
    found = {name: tensor for name, tensor in read_torch(path).items() if name.split(".")[-1] not in ("mask", "cos", "sin")}
    is_gpt2 = "pos_emb.weight" in found
    out, parts = {}, {}
    for name, tensor in found.items():
        stem, kind = name.rsplit(".", 1)
        kind = KINDS[kind]
        if stem in TOP[is_gpt2]:
            out[f"{TOP[is_gpt2][stem]}.{kind}"] = tensor
            continue
        _, layer, rest = stem.split(".", 2)
        if not is_gpt2:
            out[f"{rename_llama(layer, rest)}.{kind}"] = tensor
        elif rest in ("att.W_query", "att.W_key", "att.W_value"):
            parts.setdefault((layer, kind), []).append(tensor)
        else:
            whole = transposed(tensor) if len(tensor[1]) == 2 else tensor
            out[f"transformer.h.{layer}.{GPT2[rest]}.{kind}"] = whole
    for (layer, kind), three in parts.items():
        rows = (three[0][0], (3 * three[0][1][0], *three[0][1][1:]), b"".join(data for _, _, data in three))
        out[f"transformer.h.{layer}.attn.c_attn.{kind}"] = transposed(rows) if len(rows[1]) == 2 else rows
    return out
