#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_model.py dense|moe [--gb N] [--dir DIR]: writes a Hugging Face checkpoint of many gigabytes with synthetic values.

dense: a Llama of few large tensors. moe: a Qwen2-MoE of tens of thousands of small ones, 128 KiB an expert's matrix.
"""

import argparse
import pathlib

import bench


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["dense", "moe"])
    parser.add_argument("--build", default="build/release", help="folder of the built programs (%(default)s)")
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("."), help="where to make the folder (%(default)s)")
    parser.add_argument("--gb", type=float, default=4, help="size, 10^9 bytes (%(default)s)")
    options = parser.parse_args()
    print(bench.make_model(bench.Program(options.build), options.dir, options.kind, options.gb))


if __name__ == "__main__":
    main()
