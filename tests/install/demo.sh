#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the dependencies, builds the program, and runs its main job on a small Llama checkpoint written by
# transformers: Hugging Face -> Nanotron at TP2 x PP2 on 4 ranks -> Hugging Face at another sharding. Every step is
# checked; the first mismatch ends the script with a status that is not 0.
source "$(dirname "$0")/common.sh"

tests/install/deps.sh

say "building (build/release, $JOBS jobs)"
cmake --preset release
cmake --build --preset release --target reshard -j "$JOBS"

reshard=build/release/reshard
model=tests/data/llama-tiny
work=build/demo
rm -rf "$work"
mkdir -p "$work"

say "the source: a Llama with 4 layers, 8 heads, 4 kv heads and 259 tokens in one safetensors file"
run "$reshard" inspect "$model" | sed '/^array /,$d'

say "Hugging Face -> Nanotron, TP 2 x PP 2, on 4 ranks (the vocabulary is padded to 260, a multiple of TP)"
run mpirun -n 4 "$reshard" convert "$model" "$work/nanotron" --to nanotron --tp 2 --pp 2

say "is every value of the source in it?"
run "$reshard" verify "$work/nanotron" --against "$model" --vocab-size 259

say "Nanotron -> Hugging Face, on 4 ranks, in files of at most 200 kB (the source was one file)"
run mpirun -n 4 "$reshard" convert "$work/nanotron" "$work/hf" --to hf --vocab-size 259 --max-shard-size 200KB
ls "$work/hf"

say "is it the model that we started from?"
run "$reshard" verify "$work/hf" --against "$model"
run "$reshard" diff "$model" "$work/hf"

say "done: converted there and back, every tensor equal (results in $work)"
