#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face -> Meta, with the flags of llama-cookbook's convert_hf_weights_to_llama.py.

Options that this script does not know go to `reshard convert` as they are: --tp 4 --overwrite ...
"""

import argparse

import line

SHARDS = {"7B": 1, "8B": 1, "13B": 2, "30B": 4, "34B": 4, "65B": 8, "70B": 8}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
parser.add_argument("--model-path", "--model_path", required=True, help="Hugging Face folder, or org/name in the local cache")
parser.add_argument("--output-dir", "--output_dir", required=True, help="folder to write params.json and consolidated.NN.pth into")
parser.add_argument("--model-size", "--model_size", choices=SHARDS, help="says the number of files; or give --tp")
known, rest = parser.parse_known_args()
shards = ["--tp", SHARDS[known.model_size]] if known.model_size and "--tp" not in line.given(rest) else []
line.run(["convert", known.model_path, known.output_dir, "--to", "meta", "--dtype", "bf16", *shards, *rest])
