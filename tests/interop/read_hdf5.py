# SPDX-License-Identifier: Apache-2.0
"""Rebuilds name -> (dtype, shape, bytes) from an HDF5 archive: datasets under Hugging Face names, `dtype` says the type."""

import h5py
import numpy as np


def raw_bytes(dataset):
    """The elements as they are stored: read with the stored type, so that HDF5 converts nothing."""
    kind = dataset.id.get_type()
    array = np.empty(dataset.shape, f"V{kind.get_size()}")
    if dataset.size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array, mtype=kind)
    return array.tobytes()


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def read(path):
    tensors = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and not name.startswith("files/"):
                assert item.chunks is None and item.external is None, f"{name}: not contiguous"
                tensors[name] = (text(item.attrs["dtype"]), item.shape, raw_bytes(item))

        file.visititems(visit)
        assert text(file.attrs["complete"]) == str(len(tensors)), "incomplete"
    return tensors


def read_files(path):
    """Side files that travel inside: name -> bytes."""
    files = {}
    with h5py.File(path) as file:
        if "files" in file:
            file["files"].visititems(lambda name, item: files.update({name: raw_bytes(item)}) if hasattr(item, "shape") else None)
    return files
