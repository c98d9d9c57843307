#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One conversion as four independent parts, as an MPI job of four ranks and as one process, in alternating cold runs; and
what a restart costs that finds nothing left to stream.

Columns, bars and results: README.md. Exit status 1 if a bar is missed.
"""

import argparse
import concurrent.futures
import hashlib
import os
import statistics
import subprocess
import sys
import time

import bench

PARTS = 4
MOST_OF_MPI, MOST_RESTART_S = 1.15, 1.0
NANOTRON = ["--to", "nanotron", "--tp", "4", "--pp", "2"]


def run_job(ranks):
    def run(program, src, dst):
        done = program.convert(ranks, src, dst, *NANOTRON)
        # Under mpirun its own time: the launcher's start is the same for any model.
        return {"seconds": done.seconds if ranks == 1 else done.report["seconds"], "wall_s": done.seconds, "cpu_s": done.cpu_s}

    return run


def run_parts(at_once):
    def run(program, src, dst):
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(PARTS if at_once else 1) as pool:
            done = list(pool.map(lambda part: program.convert(1, src, dst, *NANOTRON, "--part", f"{part}/{PARTS}"), range(1, PARTS + 1)))
        seconds = time.monotonic() - start
        return {"seconds": seconds, "wall_s": seconds, "cpu_s": sum(part.cpu_s for part in done)}

    return run


def run_restart(program, src, dst):
    """Of a conversion that died when every span was durable."""
    command = program.command(1, "convert", src, dst, *NANOTRON, "--progress", "0")
    subprocess.run(command, env={**os.environ, "RESHARD_IO_KILL": "segments@1"}, capture_output=True, check=False)
    bench.make_cold(program, src)
    done = program.convert(1, src, dst, *NANOTRON, "--resume")
    written = sum(rank["bytes_written"] for rank in done.report["stream"]["ranks"])
    if written:
        sys.exit(f"{dst}: {written} bytes were left to stream; restart cannot be measured")
    return {"seconds": done.seconds, "wall_s": done.seconds, "cpu_s": done.cpu_s, "restart_s": done.seconds - done.report["stream"]["seconds"]}


MPI, PARTS_AT_ONCE, RESTART = f"mpirun -n {PARTS}", f"{PARTS} parts at once", "restart, nothing left"
WAYS = {
    "1 process": run_job(1),
    MPI: run_job(PARTS),
    PARTS_AT_ONCE: run_parts(at_once=True),
    f"{PARTS} parts in turn": run_parts(at_once=False),
    RESTART: run_restart,
}


def hashes(path):
    found = {}
    for file in bench.files_of(path):
        with open(file, "rb") as stream:
            found[file.relative_to(path)] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def run_case(program, case, src, dst, rounds, report):
    runs, outputs = {way: [] for way in WAYS}, {}
    names = list(WAYS)
    for number in range(rounds):
        for way in names[number % len(names) :] + names[: number % len(names)]:
            bench.make_cold(program, src)
            load = os.getloadavg()[0]
            runs[way].append({**WAYS[way](program, src, dst), "load": load})
            if number == rounds - 1:
                outputs[way] = hashes(dst)
                size = bench.bytes_of(dst)
            bench.remove(dst)
    median = {way: statistics.median(run["seconds"] for run in runs[way]) for way in WAYS}
    for way in WAYS:
        seconds = [run["seconds"] for run in runs[way]]
        row = {
            "case": case, "way": way, "gb": size / 1e9, "seconds": median[way], "best_s": min(seconds), "worst_s": max(seconds),
            "wall_s": statistics.median(run["wall_s"] for run in runs[way]), "cpu_s": statistics.median(run["cpu_s"] for run in runs[way]),
            "same": outputs[way] == outputs[MPI], "load": max(run["load"] for run in runs[way]), "runs": runs[way],
        }  # fmt: skip
        row["ok"] = row["same"]
        if way == RESTART:
            row["restart_s"] = statistics.median(run["restart_s"] for run in runs[way])
            row["ok"] &= row["restart_s"] < MOST_RESTART_S
        else:
            row["of_mpi"] = median[way] / median[MPI]
        if way == PARTS_AT_ONCE:
            row["ok"] &= row["of_mpi"] <= MOST_OF_MPI
        report.add(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_options(parser, 2)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way (%(default)s)")
    options = parser.parse_args()
    program = bench.Program(options.build)
    report = bench.Report("parts", [
        ("case", "case", -22, 0), ("way", "way", -21, 0), ("gb", "GB", 5, 2), ("seconds", "median s", 8, 2), ("best_s", "best s", 6, 2),
        ("worst_s", "worst s", 7, 2), ("wall_s", "wall s", 6, 2), ("cpu_s", "cpu s", 6, 2), ("of_mpi", "of mpirun", 9, 2),
        ("restart_s", "restart s", 9, 3), ("same", "same", -4, 0), ("load", "load", 5, 1), ("ok", "ok", -3, 0),
    ])  # fmt: skip
    with bench.WorkFolder(options.dir) as work:
        for kind in ("dense", "moe"):
            model = bench.make_model(program, work, kind, options.gb)
            run_case(program, f"{kind} hf to nanotron", model, work / "out", options.rounds, report)
            bench.remove(model)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
