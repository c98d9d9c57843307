# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the Hugging Face tensors from a checkpoint of Meta's: consolidated.NN.pth and params.json."""

import json
import pathlib

import numpy as np
from read_torch import read as read_torch

LAYER = {
    "attention.wq": ("self_attn.q_proj", 0), "attention.wk": ("self_attn.k_proj", 0), "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1), "feed_forward.w1": ("mlp.gate_proj", 0), "feed_forward.w2": ("mlp.down_proj", 1),
    "feed_forward.w3": ("mlp.up_proj", 0), "attention_norm": ("input_layernorm", None), "ffn_norm": ("post_attention_layernorm", None),
}  # fmt: skip
TOP = {"tok_embeddings": ("model.embed_tokens", None), "norm": ("model.norm", None), "output": ("lm_head", 0)}


def place_of(name, dim, shards):
    """Name at Hugging Face, and the dimension that is cut: of the embedding it is told by the shapes."""
    stem = name.removesuffix(".weight")
    if stem.startswith("layers."):
        _, layer, rest = stem.split(".", 2)
        target, axis = LAYER[rest]
        return f"model.layers.{layer}.{target}.weight", axis
    target, axis = TOP[stem]
    if stem == "tok_embeddings":
        axis = 0 if shards[0].shape[1] == dim else 1
    return f"{target}.weight", axis


def halves(rows, heads):
    """Rows of adjacent pairs as rotary halves."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def read(folder):
    folder = pathlib.Path(folder)
    params = json.loads((folder / "params.json").read_text())
    params = params.get("model", params)
    ranks = [read_torch(path) for path in sorted(folder.glob("*.pth"))]
    tensors = {}
    for name, (dtype, _, data) in ranks[0].items():
        if name.endswith("rope.freqs"):
            continue
        size = len(data) // max(1, int(np.prod(ranks[0][name][1])))
        shards = [np.frombuffer(rank[name][2], f"V{size}").reshape(rank[name][1]) for rank in ranks]
        target, axis = place_of(name, params["dim"], shards)
        whole = shards[0] if axis is None else np.concatenate(shards, axis)
        if name.endswith("wq.weight"):
            whole = halves(whole, params["n_heads"])
        if name.endswith("wk.weight"):
            whole = halves(whole, params.get("n_kv_heads") or params["n_heads"])
        tensors[target] = (dtype, whole.shape, whole.tobytes())
    return tensors
