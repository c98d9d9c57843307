# SPDX-License-Identifier: Apache-2.0
"""Rebuilds name -> (dtype, shape, bytes) from a Hugging Face folder: one safetensors file, or several with an index."""

import json
import pathlib
import struct


def read_safetensors(path):
    """The tensors of one file as name -> (dtype, shape, bytes), and its metadata."""
    raw = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    data = memoryview(raw)[8 + length :]
    ends = sorted(entry["data_offsets"] for entry in header.values())
    assert [begin for begin, _ in ends] == [0] + [end for _, end in ends[:-1]], f"{path}: hole or overlap"
    assert (ends[-1][1] if ends else 0) == len(data), f"{path}: size"
    return {name: (e["dtype"], tuple(e["shape"]), bytes(data[slice(*e["data_offsets"])])) for name, e in header.items()}, metadata


def read(folder):
    folder = pathlib.Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")[0]
    weight_map = json.loads(index.read_text())["weight_map"]
    tensors = {}
    for file in sorted(set(weight_map.values())):
        found, _ = read_safetensors(folder / file)
        assert set(found) == {name for name, where in weight_map.items() if where == file}, f"{file}: index"
        tensors.update(found)
    return tensors
