# SPDX-License-Identifier: Apache-2.0
"""Rebuilds the Hugging Face tensors from a folder of fairseq2's: its newest step, with model.yaml beside or above."""

import pathlib
import re

import numpy as np
from read_torch import DTYPES
from read_torch import read as read_torch

# Name there -> name at Hugging Face, and the dimension that tensor parallelism cuts.
NAMES = {
    "self_attn.q_proj": ("self_attn.q_proj", 0), "self_attn.k_proj": ("self_attn.k_proj", 0), "self_attn.v_proj": ("self_attn.v_proj", 0),
    "self_attn.output_proj": ("self_attn.o_proj", 1), "ffn.gate_proj": ("mlp.gate_proj", 0), "ffn.inner_proj": ("mlp.up_proj", 0),
    "ffn.output_proj": ("mlp.down_proj", 1), "self_attn_layer_norm": ("input_layernorm", None), "self_attn.q_norm": ("self_attn.q_norm", None),
    "ffn_layer_norm": ("post_attention_layernorm", None), "self_attn.k_norm": ("self_attn.k_norm", None),
    "decoder_frontend.embed": ("model.embed_tokens", None), "decoder.layer_norm": ("model.norm", None), "final_proj": ("lm_head", 0),
}  # fmt: skip


def card_of(folder):
    """The model.yaml that belongs to a folder."""
    folder = pathlib.Path(folder)
    places = [folder, folder / "checkpoints", *folder.absolute().parents]
    return next(place / "model.yaml" for place in places if (place / "model.yaml").exists())


def value(card, key):
    return re.search(rf"^ *{key}: (\S+)$", card, re.MULTILINE)[1]


def files_of(folder):
    """(tp, sdp) -> file of the newest step."""
    steps = [path for path in card_of(folder).parent.glob("step_*") if path.suffix != ".tmp"]
    step = max(steps, key=lambda path: int(path.name.removeprefix("step_")))
    form = re.compile(r"/(?:model(?:\.(\d+))?|model/pp_00/tp_(\d\d)/sdp_(\d\d))\.pt$")
    found = [(path, form.search(path.as_posix())) for path in step.rglob("*.pt")]
    return {(int(at[1] or at[2] or 0), int(at[3] or 0)): path for path, at in found if at}


def read(folder):
    card, files = card_of(folder).read_text(), files_of(folder)
    pairs = value(card, "model_family") in ("llama", "mistral")
    heads = {"q_proj": int(value(card, "num_attn_heads")), "k_proj": int(value(card, "num_key_value_heads"))}
    cells, out = {cell: read_torch(files[cell]) for cell in sorted(files)}, {}
    for name, (dtype, _, _) in cells[0, 0].items():
        element, ranks = f"V{dict(DTYPES.values())[dtype]}", []
        for tp in range(1 + max(cells)[0]):
            shards = [tensors[name] for cell, tensors in cells.items() if cell[0] == tp and name in tensors]
            ranks.append(np.concatenate([np.frombuffer(data, element).reshape(shape) for _, shape, data in shards if data]))
        layer, part, kind = re.fullmatch(r"(?:model\.)?(?:decoder\.layers\.(\d+)\.)?(.+)\.(\w+)", name).groups()
        target, dim = NAMES[part]
        if part == "decoder_frontend.embed":
            dim = 0 if ranks[0].shape[1] == int(value(card, "model_dim")) else 1
        whole = ranks[0] if dim is None else np.concatenate(ranks, dim)
        count = heads.get(part.rpartition(".")[2]) if pairs else None
        if count:
            whole = whole.reshape(count, -1, 2, *whole.shape[1:]).swapaxes(1, 2).reshape(whole.shape)
        out[(f"model.layers.{layer}." if layer else "") + f"{target}.{kind}"] = (dtype, whole.shape, whole.tobytes())
    return out
