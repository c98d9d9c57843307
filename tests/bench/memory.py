#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory of a rank against the size of the model, at a fixed --memory-budget.

Columns, bars and results: README.md. Exit status 1 if a bar is missed.
"""

import argparse
import sys

import bench

SLACK_MIB = 200
SIZES_GIB = [2, 4, 8]
NANOTRON = ["--to", "nanotron", "--tp", "4", "--pp", "2"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_options(parser, 4)
    parser.add_argument("--budget-mib", type=int, default=256, help="--memory-budget of each rank (%(default)s)")
    options = parser.parse_args()
    program = bench.Program(options.build)
    report = bench.Report("memory", [
        ("case", "case", -30, 0), ("ranks", "ranks", 5, 0), ("gib", "GiB", 5, 2), ("tensors", "tensors", 7, 0),
        ("budget_mib", "budget MiB", 10, 0), ("peak_mib", "peak MiB", 8, 0), ("own_mib", "own MiB", 7, 0),
        ("over_mib", "over budget", 11, 0), ("seconds", "s", 6, 1), ("ok", "ok", -3, 0),
    ])  # fmt: skip

    def add(case, ranks, timed, converts=True):
        row = {"case": case, "ranks": ranks, "peak_mib": timed.peak_mib, "seconds": timed.seconds}
        if converts:
            row["gib"] = timed.report["stream"]["source_bytes"] / 2**30
            row["tensors"] = len(timed.report["digests"]["lines"])
            row["budget_mib"] = options.budget_mib
            row["own_mib"] = max(r["peak_rss_bytes"] for r in timed.report["stream"]["ranks"]) / 2**20
            row["over_mib"] = timed.peak_mib - options.budget_mib
            row["ok"] = row["over_mib"] <= SLACK_MIB
        report.add(row)

    budget = ["--memory-budget", f"{options.budget_mib}MiB"]
    with bench.WorkFolder(options.dir) as work:
        for ranks in (1, 4):
            add("does nothing", ranks, bench.Timed(program.command(ranks, "list", "dtypes")), converts=False)
            for kind in ("dense", "moe"):
                for gib in SIZES_GIB:
                    config = bench.write_config(work, kind, gib * 2**30 / 1e9)
                    timed = program.convert(ranks, f"synthetic:{config}", "null:", *NANOTRON, *budget)
                    add(f"{kind} synthetic to null:", ranks, timed)
        for kind in ("dense", "moe"):
            model = bench.make_model(program, work, kind, options.gb)
            for ranks in (1, 4):
                for to, arguments in (("nanotron", NANOTRON), ("hdf5", ["--to", "hdf5"])):
                    dst = work / f"out.{to}"
                    timed = program.convert(ranks, model, dst, *arguments, *budget)
                    add(f"{kind} on disk to {to}", ranks, timed)
                    bench.remove(dst)
            bench.remove(model)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
