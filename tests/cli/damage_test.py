#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""verify finds a flipped bit wherever it is: one in every block of 4 KiB of a small output is flipped, one after the other.

damage_test.py: RESHARD_PROGRAM names the program. Side files have no checksum, neither beside the tensors nor in HDF5 files.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

PROGRAM = os.environ.get("RESHARD_PROGRAM", "reshard")
BLOCK = 4096
MODEL = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 400, "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "torch_dtype": "bfloat16",
}  # fmt: skip
# Fields of a zip archive that nothing depends on, by the record that they are in: who made it, attributes, versions.
FREE = {b"PK\x01\x02": [*range(4, 6), *range(36, 42)], b"PK\x06\x06": range(12, 16), b"PK\x06\x07": range(16, 20)}


def free_bytes(data):
    """Positions of bytes that may change unnoticed."""
    if data.startswith(b"\x89HDF"):
        # Side files at the end; zeros before them may be the unused rest of a heap or of a page.
        side_files = data.rindex(b"{\n", 0, data.rindex(b'"architectures"'))
        return {at for at in range(side_files) if data[at] == 0} | set(range(side_files, len(data)))
    positions = set()
    for signature, fields in FREE.items():
        at = data.find(signature)
        while at >= 0:
            positions.update(at + field for field in fields)
            at = data.find(signature, at + 1)
    return positions


class Damage(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="reshard-damage-"))
        self.addCleanup(shutil.rmtree, self.work)
        (self.work / "model.json").write_text(json.dumps(MODEL))

    def run_program(self, *arguments):
        return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)

    def check(self, target, name):
        out = self.work / "out"
        path = out / name
        made = self.run_program("convert", f"synthetic:{self.work / 'model.json'}", out, "--to", target)
        self.assertEqual(made.returncode, 0, made.stderr)
        whole = self.run_program("verify", out)
        self.assertEqual(whole.returncode, 0, whole.stdout + whole.stderr)
        data = path.read_bytes()
        free = free_bytes(data)
        blocks = [begin for begin in range(0, len(data), BLOCK) if not free.issuperset(range(begin, min(begin + BLOCK, len(data))))]
        self.assertGreaterEqual(len(blocks), 15)
        for number, begin in enumerate(blocks):
            # Another place of each block, from its beginning to its end.
            length = min(BLOCK, len(data) - begin)
            start = begin + (number * 1237 + 450) % length
            at = next(at for at in [*range(start, begin + length), *range(begin, start)] if at not in free)
            bit = number % 8
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(bytes([data[at] ^ 1 << bit]))
            found = self.run_program("verify", out)
            where = f"{name}: byte {at} of {len(data)}, bit {bit}\n{found.stdout}{found.stderr}"
            self.assertIn(found.returncode, (1, 3), where)
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(data[at : at + 1])
        self.assertEqual(self.run_program("verify", out).returncode, 0)

    def test_safetensors(self):
        self.check("hf", "model.safetensors")

    def test_torch(self):
        self.check("hf_bin", "pytorch_model.bin")

    def test_hdf5(self):
        self.check("hdf5", ".")


if __name__ == "__main__":
    unittest.main()
