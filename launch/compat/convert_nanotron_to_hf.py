#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Nanotron -> Hugging Face, with the flags of Nanotron's examples/llama/convert_nanotron_to_hf.py.

Options that this script does not know go to `reshard convert` as they are: --vocab-size 128256 --overwrite ...
"""

import argparse

import line

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
parser.add_argument("--checkpoint_path", default="llama-7b", help="Nanotron checkpoint, or a run folder with latest.txt")
parser.add_argument("--save_path", default="llama-7b-hf", help="Hugging Face folder to write")
parser.add_argument("--tokenizer_name", help="folder, or org/name in the local cache, whose tokenizer goes into --save_path")
parser.add_argument("--config_cls", choices=("LlamaConfig", "Qwen2Config"), help="accepted; model_config.json itself says which")
known, rest = parser.parse_known_args()
tokenizer = ["--tokenizer-from", known.tokenizer_name] if known.tokenizer_name else []
line.run(["convert", known.checkpoint_path, known.save_path, "--to", "hf", "--dtype", "bf16", *tokenizer, *rest])
