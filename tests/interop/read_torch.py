# SPDX-License-Identifier: Apache-2.0
"""Rebuilds name -> (dtype, shape, bytes) from a torch file (zip and pickle), without torch."""

import collections
import pickle
import zipfile

import numpy as np

DTYPES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2), "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1), "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
}  # fmt: skip
Tensor = collections.namedtuple("Tensor", "storage offset shape strides")
REBUILT = {
    "OrderedDict": collections.OrderedDict, "_rebuild_parameter": lambda t, *_: t, "_rebuild_tensor_v2": lambda storage, *at: Tensor(storage, *at[:3]),
    "_rebuild_tensor_v3": lambda storage, *at: Tensor((at[5], storage[1]), *at[:3]),  # of a storage without a type
}  # fmt: skip


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if module in ("collections", "torch._utils"):
            return REBUILT[name]
        assert (module == "torch" and name in DTYPES) or name == "UntypedStorage", f"{module}.{name}"
        return name

    def persistent_load(self, pid):
        return pid[1], pid[2]  # class, key


def tensors_in(value, prefix=""):
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from tensors_in(member, f"{prefix}.{key}" if prefix else str(key))


def load(path):
    """The tensors as they lie in the file, and a function that gives one's bytes in row-major order."""
    archive = zipfile.ZipFile(path)
    assert archive.testzip() is None, f"{path}: CRC"
    (root,) = {name.split("/")[0] for name in archive.namelist()}
    storages = {}

    def content(tensor):
        key, size = tensor.storage[1], DTYPES[tensor.storage[0]][1]
        if key not in storages:
            storages[key] = np.frombuffer(archive.read(f"{root}/data/{key}"), f"V{size}")
        view = np.lib.stride_tricks.as_strided(storages[key][tensor.offset :], tensor.shape, [step * size for step in tensor.strides])
        return view.tobytes()

    return dict(tensors_in(Unpickler(archive.open(f"{root}/data.pkl")).load())), content


def read(path):
    found, content = load(path)
    return {name: (DTYPES[tensor.storage[0]][0], tuple(tensor.shape), content(tensor)) for name, tensor in found.items()}
