#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loads the program's torch files with torch itself, beside those that the reference tools wrote.

torch_load_test.py: RESHARD_PROGRAM names the program, RESHARD_FIXTURES a folder of reference checkpoints (by default the one of
this file). Converts each case's base to the case's format and topology; then torch.load(weights_only=True), with mmap where this
torch has it, must give the same names in the same order, dtypes, shapes, values, and sharing of storages as the reference file.
Exit status 77, with the reason, where torch is missing.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}; tests/install/deps.sh --tests installs it")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = pathlib.Path(os.environ.get("RESHARD_FIXTURES") or HERE)
PROGRAM = os.environ.get("RESHARD_PROGRAM", "reshard")
VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])

# case: base, options of `reshard convert`
CASES = {
    "hf/llama-mha-bin": ("llama-mha", "--to hf_bin"),
    "hf/gpt2-bin": ("gpt2", "--to hf_bin"),
    "hf/llama-tied-bin-sharded": ("llama-tied", "--to hf_bin --max-shard-size 100KB"),
    "meta/llama-gqa-mp1": ("llama-gqa", "--to meta"),
    "meta/llama-mha-mp1": ("llama-mha", "--to meta"),
    "meta/llama-tied-mp1": ("llama-tied", "--to meta"),
    "meta/llama-mha-v256-mp2": ("llama-mha-v256", "--to meta --tp 2"),
    "meta/llama-gqa-v256-mp2": ("llama-gqa-v256", "--to meta --tp 2"),
    "meta/llama-gqa-v256-mp4": ("llama-gqa-v256", "--to meta --tp 4"),
    "fairseq2/llama-gqa-tp1": ("llama-gqa", "--to fairseq2"),
    "fairseq2/llama-gqa-sdp3-f32": ("llama-gqa", "--to fairseq2 --dp 3 --dtype fp32"),
    "fairseq2/llama-gqa-v256-tp2-sdp2": ("llama-gqa-v256", "--to fairseq2 --tp 2 --dp 2"),
    "fairseq2/llama-mha-v256-tp2-colembed": ("llama-mha-v256", "--to fairseq2 --tp 2"),
    "fairseq2/llama-tied-tp1": ("llama-tied", "--to fairseq2"),
    "fairseq2/qwen2-tp1": ("qwen2", "--to fairseq2"),
    "fairseq2/qwen3-tp1": ("qwen3", "--to fairseq2"),
    "fairseq2/llama-gqa-v046": ("llama-gqa", "--to fairseq2 --format-version 0.4"),
    "fairseq2/llama-gqa-v256-v046-tp2": ("llama-gqa-v256", "--to fairseq2 --format-version 0.4 --tp 2"),
    "llms_from_scratch/gpt2.pth": ("gpt2", "--to llms_from_scratch --dtype fp32"),
    "llms_from_scratch/llama-gqa.pth": ("llama-gqa", "--to llms_from_scratch"),
    "llms_from_scratch/llama-tied.pth": ("llama-tied", "--to llms_from_scratch"),
    "llms_from_scratch/llama-mha-llama2nb.pth": ("llama-mha", "--to llms_from_scratch --format-version llama2"),
    "llms_from_scratch/qwen3.pth": ("qwen3", "--to llms_from_scratch"),
    "llms_from_scratch/qwen3-moe.pth": ("qwen3-moe", "--to llms_from_scratch"),
}
# Saved from a model's state_dict(); the program has the order of Meta's own downloads and of the converters.
ORDERED_OTHERWISE = ("meta/llama-gqa-v256-mp4",)
# Rotary tables: the last bit depends on the machine's cosine.
COMPUTED = (".att.cos", ".att.sin")
# Tensors that a reference tool adds and that hold no weight: rotary tables of old transformers.
ADDED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def torch_files(path):
    """Torch files of a checkpoint, by what tells them apart: their names, without folders that name steps and versions."""
    if path.is_file():
        return {"": path}
    found = {}
    for file in sorted(path.rglob("*")):
        if file.suffix in (".pth", ".pt", ".bin") and file.is_file():
            parts = [part for part in file.relative_to(path).parts if not part.startswith(("step_", "checkpoints"))]
            found["/".join(parts)] = file
    return found if len(found) > 1 else {"": next(iter(found.values()))}


def load(path):
    options = {"weights_only": True, "map_location": "cpu"}
    if VERSION >= (2, 1):
        options["mmap"] = True
    return torch.load(str(path), **options)


def tensors_of(loaded, prefix=""):
    """Tensors by their dotted names, in order; other values as they are."""
    flat = {}
    for key, value in loaded.items():
        if isinstance(value, dict):
            flat.update(tensors_of(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def sharing(tensors):
    """Names that lie at one address, in groups of several."""
    groups = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            groups.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
    return sorted(names for names in groups.values() if len(names) > 1)


def names(values):
    return [name for name, value in values.items() if isinstance(value, torch.Tensor)]


class TorchLoads(unittest.TestCase):
    def convert(self, base, options, out):
        command = [PROGRAM, "convert", str(FIXTURES / "hf" / base), str(out), *options.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"{' '.join(command)}\n{done.stderr}")

    def compare(self, ours, theirs, where):
        ours, theirs = tensors_of(load(ours)), tensors_of(load(theirs))
        theirs = {name: value for name, value in theirs.items() if not name.endswith(ADDED)}
        if "rope.freqs" not in ours:
            theirs.pop("rope.freqs", None)  # the reference code loads a checkpoint without it
        self.assertEqual(sorted(ours), sorted(theirs), where)
        for name, value in theirs.items():
            if not isinstance(value, torch.Tensor):
                self.assertEqual(ours[name], value, f"{where} {name}")
                continue
            ours_too = ours[name]
            self.assertEqual((ours_too.dtype, tuple(ours_too.shape)), (value.dtype, tuple(value.shape)), f"{where} {name}")
            self.assertTrue(ours_too.is_contiguous(), f"{where} {name}")
            if name.endswith(COMPUTED):
                self.assertTrue(torch.allclose(ours_too, value, rtol=0, atol=2**-24), f"{where} {name}: other values")
                continue
            same = torch.equal(ours_too.contiguous().view(torch.uint8), value.contiguous().view(torch.uint8)) if value.dim() else bool(ours_too == value)
            self.assertTrue(same, f"{where} {name}: other values")
        return ours, theirs


def add_test(case, base, options):
    def test(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / pathlib.Path(case).stem
            self.convert(base, options, out)
            ours, theirs = torch_files(out), torch_files(FIXTURES / case)
            if "sharded" in case:  # how many files there are is the writer's to choose
                merged = [{k: v for path in files.values() for k, v in tensors_of(load(path)).items()} for files in (ours, theirs)]
                self.assertEqual(sorted(merged[0]), sorted(name for name in merged[1] if not name.endswith(ADDED)))
                return
            self.assertEqual(sorted(ours), sorted(theirs))
            for name in theirs:
                mine, reference = self.compare(ours[name], theirs[name], f"{case} {name}")
                if case not in ORDERED_OTHERWISE:
                    self.assertEqual(names(mine), names(reference), f"{case}: another order")
                self.assertEqual(sharing(mine), sharing(reference), f"{case}: other names share a storage")
    setattr(TorchLoads, "test_" + case.replace("/", "_").replace("-", "_").replace(".", "_"), test)


for the_case, (the_base, the_options) in CASES.items():
    if (FIXTURES / the_case).exists() and (FIXTURES / "hf" / the_base).exists():
        add_test(the_case, the_base, the_options)

if __name__ == "__main__":
    print(f"torch {torch.__version__}")
    unittest.main()
