# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the Hugging Face tensors from a folder of fairseq2's: its newest step, with model.yaml beside or above."""

import pathlib
import re

import numpy as np
from read_torch import read as read_torch

LAYER = {
    "self_attn.q_proj": ("self_attn.q_proj", 0), "self_attn.k_proj": ("self_attn.k_proj", 0), "self_attn.v_proj": ("self_attn.v_proj", 0),
    "self_attn.output_proj": ("self_attn.o_proj", 1), "ffn.gate_proj": ("mlp.gate_proj", 0), "ffn.inner_proj": ("mlp.up_proj", 0),
    "ffn.output_proj": ("mlp.down_proj", 1), "self_attn_layer_norm": ("input_layernorm", None), "self_attn.q_norm": ("self_attn.q_norm", None),
    "ffn_layer_norm": ("post_attention_layernorm", None), "self_attn.k_norm": ("self_attn.k_norm", None),
}  # fmt: skip
TOP = {"decoder_frontend.embed": "model.embed_tokens", "decoder.layer_norm": "model.norm", "final_proj": "lm_head"}


def card_of(folder):
    """Text of the model.yaml that belongs to a folder."""
    folder = pathlib.Path(folder)
    places = [folder, folder / "checkpoints", *folder.absolute().parents]
    return next(place / "model.yaml" for place in places if (place / "model.yaml").exists())


def value(card, key):
    return re.search(rf"^ *{key}: (\S+)$", card, re.MULTILINE)[1]


def files_of(folder):
    """(tp, sdp) -> file of the newest step."""
    steps = [path for path in card_of(folder).parent.glob("step_*") if path.suffix != ".tmp"]
    step = max(steps, key=lambda path: int(path.name.removeprefix("step_")))
    files = {}
    for path in step.rglob("*.pt"):
        numbers = list(map(int, re.findall(r"_(\d\d)\b", str(path.relative_to(step)))))
        old = re.fullmatch(r"model(?:\.(\d+))?\.pt", path.name)
        if old or path.name.startswith("sdp_"):
            files[(int(old[1] or 0), 0) if old else tuple(numbers[1:])] = path
    return files


def read(folder):
    card = card_of(folder).read_text()
    pairs = value(card, "model_family") in ("llama", "mistral")
    heads = {"q_proj": int(value(card, "num_attn_heads")), "k_proj": int(value(card, "num_key_value_heads"))}
    cells = {}
    for cell, path in files_of(folder).items():
        cells[cell] = {name.removeprefix("model."): tensor for name, tensor in read_torch(path).items()}
    out = {}
    for name, (dtype, _, data) in cells[0, 0].items():
        item = next(len(d) // int(np.prod(s)) for t in cells.values() for _, s, d in [t.get(name, ("", (0,), b""))] if d)
        ranks = []
        for tp in range(1 + max(tp for tp, _ in cells)):
            shards = [cells[cell][name] for cell in sorted(cells) if cell[0] == tp and name in cells[cell]]
            ranks.append(np.concatenate([np.frombuffer(d, f"V{item}").reshape(s) for _, s, d in shards if d]))
        stem, kind = name.rsplit(".", 1)
        if stem in TOP:
            target, dim = TOP[stem], 0 if stem == "final_proj" else None
            if stem == "decoder_frontend.embed":
                dim = 0 if ranks[0].shape[1] == int(value(card, "model_dim")) else 1
        else:
            layer, rest = stem.removeprefix("decoder.layers.").split(".", 1)
            target, dim = LAYER[rest]
            target = f"model.layers.{layer}.{target}"
        whole = ranks[0] if dim is None or len(ranks) == 1 else np.concatenate(ranks, dim)
        count = heads.get(stem.rpartition(".")[2])
        if pairs and count:
            whole = whole.reshape(count, -1, 2, *whole.shape[1:]).swapaxes(1, 2).reshape(whole.shape)
        out[f"{target}.{kind}"] = (dtype, whole.shape, whole.tobytes())
    return out
