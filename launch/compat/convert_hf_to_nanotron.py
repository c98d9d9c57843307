#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face -> Nanotron, with the flags of Nanotron's examples/llama/convert_hf_to_nanotron.py.

Options that this script does not know go to `reshard convert` as they are: --tp 8 --pp 4 --overwrite ...
"""

import argparse

import line

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
parser.add_argument("--checkpoint_path", default="llama-7b", help="Hugging Face folder, or org/name in the local cache")
parser.add_argument("--save_path", default="llama-7b-hf", help="Nanotron folder to write")
known, rest = parser.parse_known_args()
line.run(["convert", known.checkpoint_path, known.save_path, "--to", "nanotron", "--dtype", "bf16", *rest])
