#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""fairseq2 -> Hugging Face, with the flags of `python -m fairseq2.models.utils.hg_export` of fairseq2 0.5 to 0.8.

Options behind SAVE_DIR that this script does not know go to `reshard convert` as they are: --overwrite ...
"""

import argparse
import pathlib
import re

import line


def step_of(name, folder):
    """The step that a name of fairseq2's means; None is the newest."""
    if name == "last_checkpoint":
        return None
    if step := re.fullmatch(r"checkpoint_step_(\d+)", name):
        return int(step[1])
    best = re.fullmatch(r"best_checkpoint(?:_(\d+))?", name)
    if not best:
        parser.error(f"{name}: expected checkpoint_step_N, last_checkpoint, best_checkpoint or best_checkpoint_I; nothing is downloaded")
    scores, place = [], int(best[1] or 0)
    for path in folder.glob("scores/step_*.txt"):
        number = path.stem.removeprefix("step_")
        if number.isdigit() and (folder / path.stem).exists():
            try:
                scores.append((float(path.read_text().split("\n")[0]), int(number)))
            except ValueError:
                parser.error(f"{path}: expected a number")
    if place >= len(scores):
        parser.error(f"{name}: {folder / 'scores'} holds scores of {len(scores)} of the steps")
    return sorted(scores, reverse=True)[place][1]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
parser.add_argument("--checkpoint-dir", required=True, type=pathlib.Path, help="folder of the steps and model.yaml")
parser.add_argument("--no-rich", action="store_true", help="accepted and not needed")
parser.add_argument("model", help="checkpoint_step_N, last_checkpoint, best_checkpoint, best_checkpoint_I")
parser.add_argument("save_dir", help="Hugging Face folder to write")
known, rest = parser.parse_known_args()
step = step_of(known.model, known.checkpoint_dir)
chosen = [] if step is None else ["--step", step]
dtype = [] if "--dtype" in line.given(rest) else ["--dtype", "fp32"]
line.run(["convert", known.checkpoint_dir, known.save_dir, "--to", "hf", *dtype, *chosen, *rest])
