#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compare.py A B [--rows N]: are the Hugging Face tensors in two checkpoints equal, bit for bit?

Each may be a Hugging Face folder of safetensors or torch files, a folder of Meta's or of LLMs-from-scratch, a folder or run
folder of Nanotron or fairseq2, or an HDF5 archive. --rows N compares the first N rows of the embedding and the head alone,
and expects B to have just these: A holds a padded vocabulary. A head that repeats the embedding counts as absent, as
safetensors files have it.
"""

import argparse
import pathlib
import sys

EMBEDDING = ("model.embed_tokens.weight", "transformer.wte.weight")
HEAD = "lm_head.weight"
VOCABULARY = (EMBEDDING[0], HEAD)


def read(path):
    path = pathlib.Path(path)
    if path.is_file():
        import read_hdf5 as reader
    elif (path / "params.json").exists():
        import read_meta as reader
    elif list(path.glob("*.bin")):
        import read_hf_bin as reader
    elif list(path.glob("**/model.yaml")):
        import read_fairseq2 as reader
    elif (path / "model.pth").exists():
        import read_book as reader

        path /= "model.pth"
    elif (path / "model_config.json").exists() or (path / "latest.txt").exists():
        import read_nanotron as reader
    else:
        import read_hf as reader
    return without_ties(reader.read(path))


def without_ties(tensors):
    """The same tensors without a head that repeats the embedding."""
    embedding = next((tensors[name] for name in EMBEDDING if name in tensors), None)
    return {name: tensor for name, tensor in tensors.items() if name != HEAD or tensor != embedding}


def first_rows(tensors, rows):
    """The same tensors with vocabulary rows from `rows` on cut off."""
    cut = dict(tensors)
    for name in VOCABULARY:
        if name in cut:
            dtype, shape, data = cut[name]
            cut[name] = (dtype, (rows, *shape[1:]), data[: len(data) // shape[0] * rows])
    return cut


def differences(a, b):
    """One line per tensor that is missing, of another dtype or shape, or not equal in all bytes."""
    lines = [f"{name}: only in the first" for name in sorted(a.keys() - b.keys())]
    lines += [f"{name}: only in the second" for name in sorted(b.keys() - a.keys())]
    for name in sorted(a.keys() & b.keys()):
        if a[name][:2] != b[name][:2]:
            lines.append(f"{name}: {a[name][:2]} against {b[name][:2]}")
        elif a[name][2] != b[name][2]:
            lines.append(f"{name}: values differ")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--rows", type=int)
    arguments = parser.parse_args()
    a, b = read(arguments.a), read(arguments.b)
    lines = differences(first_rows(a, arguments.rows) if arguments.rows else a, b)
    print("\n".join(lines) if lines else f"equal: {len(b)} tensors")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
