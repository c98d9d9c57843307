# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the Hugging Face tensors, name -> (dtype, shape, bytes), of a Nanotron folder: slices, fused rows, rotary order."""

import json
import pathlib
import re

import numpy as np
from read_hf import read_safetensors

BITS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
FILE = re.compile(r"model_(.+?)(?:_pp-rank-\d+-of-\d+_tp-rank-\d+-of-\d+(?:_exp-rank-\d+-of-\d+)?)?\.safetensors")
RENAMED = {"token_position_embeddings.token_embedding": "model.embed_tokens", "final_layer_norm": "model.norm",
           "decoder": "model.layers", "attn": "self_attn", "router": "gate"}


def cut(text):
    return tuple(slice(*(None if n == "None" else int(n) for n in part.split(","))) for part in text.split("|"))


def stitch(folder):
    """Parameter -> (dtype, array, which elements were found): the shards of each, put together by their slices."""
    whole = {}
    for path in sorted(folder.glob("model/**/*.safetensors")):
        leaf = FILE.fullmatch(path.name)[1].removeprefix("model_").removesuffix(".safetensors")
        name = ".".join([part for part in path.relative_to(folder / "model/model").parts[:-1] if part != "pp_block"] + [leaf])
        tensors, about = read_safetensors(path)
        dtype, shape, data = tensors["data"]
        array = np.frombuffer(data, BITS[dtype]).reshape(shape)
        full = [int(n) for n in re.findall(r"\d+", about.get("unsharded_shape", str(shape)).replace("int64", ""))]
        _, target, seen = whole.setdefault(name, (dtype, np.zeros(full, array.dtype), np.zeros(full, bool)))
        for pair in about.get("local_global_slices_pairs", "None,None,None#None,None,None").split(";"):
            local, everywhere = map(cut, pair.split("#"))
            target[everywhere], seen[everywhere] = array[local], True
    assert all(seen.all() for _, _, seen in whole.values()), "shards do not cover their tensor"
    return whole


def read(folder):
    latest = pathlib.Path(folder, "latest.txt")
    folder = latest.parent / (latest.read_text() if latest.exists() else "")
    config = json.loads((folder / "model_config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"] or config["num_attention_heads"]
    interleaved, size = config.get("rope_interleaved", "is_llama_config" in config), config["hidden_size"] // heads
    out = {}
    for name, (dtype, array, _) in stitch(folder).items():
        name = re.sub("|".join(RENAMED), lambda found: RENAMED[found[0]], name)
        parts = {name: array}
        if ".qkv_proj." in name:
            q, k, v = np.split(array, np.cumsum([heads * size, kv_heads * size]))
            if interleaved:
                q, k = (part.reshape(-1, size // 2, 2, *part.shape[1:]).swapaxes(1, 2).reshape(part.shape) for part in (q, k))
            parts = {name.replace("qkv", part): rows for part, rows in zip("qkv", (q, k, v))}
        elif ".gate_up_proj." in name:
            parts = {name.replace("gate_up", part): rows for part, rows in zip(("gate", "up"), np.split(array, 2))}
        elif ".merged_" in name:  # transposed, one matrix per expert
            pieces = {"down": array} if "down" in name else dict(zip(("gate", "up"), np.split(array, 2, axis=2)))
            parts = {re.sub(r"merged_\w+", f"{e}.{p}_proj.weight", name): m.T for p in pieces for e, m in enumerate(pieces[p])}
        out.update({part: (dtype, rows.shape, rows.tobytes()) for part, rows in parts.items()})
    return out
