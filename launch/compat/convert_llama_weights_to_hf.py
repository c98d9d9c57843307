#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Meta -> Hugging Face, with the flags of transformers' models/llama/convert_llama_weights_to_hf.py.

Options that this script does not know go to `reshard convert` as they are: --config-from DIR --overwrite ...
"""

import argparse

import line

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
parser.add_argument("--input_dir", required=True, help="folder with params.json and consolidated.NN.pth")
parser.add_argument("--output_dir", required=True, help="Hugging Face folder to write")
parser.add_argument("--model_size", help="accepted; params.json itself says it")
parser.add_argument("--llama_version", help="accepted; params.json itself tells it")
parser.add_argument("--num_shards", type=int, help="accepted; the files are counted")
parser.add_argument("--safe_serialization", nargs="?", const="true", default="true", help="false writes pytorch_model.bin files")
known, rest = parser.parse_known_args()
target = "hf_bin" if known.safe_serialization.lower() in ("false", "0", "no") else "hf"
line.run(["convert", known.input_dir, known.output_dir, "--to", target, "--dtype", "bf16", *rest])
