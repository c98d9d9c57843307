# SPDX-License-Identifier: Apache-2.0
"""Rebuilds name -> (dtype, shape, bytes) from a Hugging Face folder of torch files: one, or several with an index."""

import json
import pathlib

from read_torch import read as read_torch


def read(folder):
    folder = pathlib.Path(folder)
    index = folder / "pytorch_model.bin.index.json"
    if not index.exists():
        tensors = read_torch(folder / "pytorch_model.bin")
    else:
        weight_map = json.loads(index.read_text())["weight_map"]
        tensors = {}
        for file in sorted(set(weight_map.values())):
            found = read_torch(folder / file)
            assert set(found) == {name for name, where in weight_map.items() if where == file}, f"{file}: index"
            tensors.update(found)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
