#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Conversions on disk against `cp -r` + sync and against the store probe, in alternating cold runs.

Columns, bars and results: README.md. Exit status 1 if a bar is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import bench

MOST_OF_PROBE, MOST_OF_CP = 1.10, 1.05
NANOTRON = ["--to", "nanotron", "--tp", "4", "--pp", "2"]


class Case:
    """One conversion: what the tools read, and an output that has the sizes they write."""

    def __init__(self, name, src, like, dst, options):
        self.name, self.src, self.like, self.dst, self.options = name, src, like, dst, options


def time_copy(program, case):
    copied = bench.Timed(["sh", "-c", f"cp -r '{case.src}' '{case.dst}' && sync"])
    return {"seconds": copied.seconds, "wall_s": copied.seconds, "cpu_s": copied.cpu_s}


def time_probe(program, case, setting):
    probed = bench.Timed([program.store_probe, case.src, case.like, case.dst, "--setting", setting])
    return {"seconds": probed.seconds, "wall_s": probed.seconds, "cpu_s": probed.cpu_s}


def time_reshard(program, case, ranks):
    converted = program.convert(ranks, case.src, case.dst, *case.options)
    stream = converted.report["stream"]
    busy = {stage: max(rank["busy_s"][stage] for rank in stream["ranks"]) for stage in stream["ranks"][0]["busy_s"]}
    # Under mpirun its own time, from the first header read to the commit: the launcher's start is not the store's business.
    seconds = converted.seconds if ranks == 1 else converted.report["seconds"]
    return {"seconds": seconds, "wall_s": converted.seconds, "cpu_s": converted.cpu_s, "stream_s": stream["seconds"], "busy_s": busy}


def run_case(program, case, rounds, ranks, report):
    probed = json.loads(bench.Timed([program.store_probe, case.src, case.like, case.dst]).output)
    tools = {"cp -r + sync": time_copy, f"probe {probed['setting']}": lambda p, c: time_probe(p, c, probed["setting"])}
    copy, probe = tools
    for n in ranks:
        tools[f"reshard, {n} rank{'s' if n > 1 else ''}"] = lambda p, c, n=n: time_reshard(p, c, n)
    runs = {tool: [] for tool in tools}
    wrong = {}
    names = list(tools)
    for number in range(rounds):
        for tool in names[number % len(names) :] + names[: number % len(names)]:
            bench.make_cold(program, case.src)
            load = os.getloadavg()[0]
            runs[tool].append({**tools[tool](program, case), "load": load})
            if tool not in (copy, probe) and number == rounds - 1:
                verify = [program.reshard, "verify", case.dst, "--against", case.src, "--progress", "0"]
                wrong[tool] = subprocess.run(verify, capture_output=True, check=False).returncode
            bench.remove(case.dst)
    median = {tool: statistics.median(run["seconds"] for run in runs[tool]) for tool in tools}
    for tool in tools:
        seconds = [run["seconds"] for run in runs[tool]]
        row = {
            "case": case.name, "tool": tool, "gb": bench.bytes_of(case.like) / 1e9, "files": len(bench.files_of(case.like)),
            "seconds": median[tool], "best_s": min(seconds), "worst_s": max(seconds),
            "gb_per_s": bench.bytes_of(case.like) / 1e9 / median[tool],
            "wall_s": statistics.median(run["wall_s"] for run in runs[tool]),
            "cpu_s": statistics.median(run["cpu_s"] for run in runs[tool]),
            "of_cp": median[tool] / median[copy], "of_probe": median[tool] / median[probe],
            "load": max(run["load"] for run in runs[tool]), "runs": runs[tool],
        }  # fmt: skip
        if tool == probe:
            row["settings"] = probed["runs"]
        if tool in wrong:
            row["wrong"] = wrong[tool]
            row["ok"] = wrong[tool] == 0 and row["of_probe"] <= MOST_OF_PROBE and row["of_cp"] <= MOST_OF_CP
        report.add(row)


def cases_of(program, work, kind, gigabytes):
    """The cases of one model, each valid until the next is asked for."""
    dst = work / "out"
    if kind == "torch":
        yield from torch_cases(program, work, gigabytes, dst)
        return
    # The MoE has 21,000 to 28,000 tensors from 2 to 8 GB: expert matrices of 32 KiB per GB.
    details = {"expert_width": max(8, 8 * round(2 * gigabytes))} if kind == "moe" else {}
    model = bench.make_model(program, work, kind, gigabytes, **details)
    targets = [("nanotron", NANOTRON)] + ([("hdf5", ["--to", "hdf5"])] if kind == "moe" else [])
    for to, options in targets:
        like = work / f"{kind}.{to}"
        program.convert(1, model, like, *options)
        yield Case(f"{kind} hf to {to}", model, like, dst, options)
        yield Case(f"{kind} {to} to hf", like, model, dst, ["--to", "hf"])
        bench.remove(like)
    bench.remove(model)


def torch_cases(program, work, gigabytes, dst):
    model = bench.make_model(program, work, "dense", gigabytes)
    mp2, mp8, fairseq2 = ["--to", "meta", "--tp", "2"], work / "mp8", work / "fairseq2"
    program.convert(1, model, mp8, "--to", "meta", "--tp", "8")
    program.convert(1, model, work / "mp2", *mp2)
    yield Case("dense meta mp8 to mp2", mp8, work / "mp2", dst, mp2)
    bench.remove(mp8)
    bench.remove(work / "mp2")
    program.convert(1, model, fairseq2, "--to", "fairseq2")
    yield Case("dense fairseq2 to hf", fairseq2, model, dst, ["--to", "hf"])
    bench.remove(fairseq2)
    bench.remove(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_options(parser, 4)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each tool (%(default)s)")
    parser.add_argument("--ranks", default="1,2", help="job sizes to run (%(default)s)")
    parser.add_argument("--models", default="dense,moe,torch", help="models to run; torch: the dense one in torch files (%(default)s)")
    options = parser.parse_args()
    program = bench.Program(options.build)
    report = bench.Report("end_to_end", [
        ("case", "case", -20, 0), ("tool", "tool", -24, 0), ("gb", "GB", 5, 2), ("files", "files", 5, 0),
        ("seconds", "median s", 8, 2), ("best_s", "best s", 6, 2), ("worst_s", "worst s", 7, 2), ("gb_per_s", "GB/s", 5, 2),
        ("wall_s", "wall s", 6, 2), ("cpu_s", "cpu s", 6, 2), ("of_cp", "of cp", 5, 2), ("of_probe", "of probe", 8, 2), ("wrong", "wrong", 5, 0),
        ("load", "load", 5, 1), ("ok", "ok", -3, 0),
    ])  # fmt: skip
    with bench.WorkFolder(options.dir) as work:
        for kind in options.models.split(","):
            for case in cases_of(program, work, kind, options.gb):
                run_case(program, case, options.rounds, [int(n) for n in options.ranks.split(",")], report)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
