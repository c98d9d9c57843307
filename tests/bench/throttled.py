#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How well reading, exchange, repack and writing overlap: conversions on disk with RESHARD_IO_THROTTLE each way.

Columns, bars and results: README.md. Exit status 1 if a bar is missed.
"""

import argparse
import sys

import bench

MOST_OF_BUSIER = 1.15
NANOTRON = ["--to", "nanotron", "--tp", "4", "--pp", "2"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_options(parser, 2)
    parser.add_argument("--rate-mb", type=int, default=200, help="MB/s each way for the whole job (%(default)s)")
    options = parser.parse_args()
    program = bench.Program(options.build)
    report = bench.Report("throttled", [
        ("case", "case", -20, 0), ("route", "route", -8, 0), ("ranks", "ranks", 5, 0), ("read_gb", "read GB", 7, 2),
        ("write_gb", "write GB", 8, 2), ("busier_s", "busier s", 8, 2), ("stream_s", "stream s", 8, 2), ("seconds", "wall s", 6, 2),
        ("ratio", "wall / busier", 13, 3), ("free_s", "free s", 6, 2), ("ok", "ok", -3, 0),
    ])  # fmt: skip
    throttle = {"RESHARD_IO_THROTTLE": f"{options.rate_mb}MB,{options.rate_mb}MB"}

    def measure(case, src, dst, to, ranks, route):
        arguments = [*to, "--route", route]
        free = program.convert(ranks, src, dst, *arguments)
        bench.remove(dst)
        slow = program.convert(ranks, src, dst, *arguments, env=throttle)
        totals = slow.report["stream"]["ranks"]
        read, written = (sum(rank[key] for rank in totals) for key in ("bytes_read", "bytes_written"))
        busier_s = max(read, written) / (options.rate_mb * 1e6)
        ratio = slow.seconds / busier_s
        report.add({
            "case": case, "route": slow.report["stream"]["route"], "ranks": ranks, "read_gb": read / 1e9,
            "write_gb": written / 1e9, "busier_s": busier_s, "stream_s": slow.report["stream"]["seconds"],
            "seconds": slow.seconds, "ratio": ratio, "free_s": free.seconds, "ok": ratio <= MOST_OF_BUSIER,
            "by_rank": totals,
        })  # fmt: skip

    with bench.WorkFolder(options.dir) as work:
        for kind in ("dense", "moe"):
            model = bench.make_model(program, work, kind, options.gb)
            there = work / f"{kind}.nanotron"
            program.convert(1, model, there, *NANOTRON)
            for ranks, route in ((1, "auto"), (4, "auto"), (4, "exchange")):
                measure(f"{kind} hf to nanotron", model, work / "out", NANOTRON, ranks, route)
                bench.remove(work / "out")
                measure(f"{kind} nanotron to hf", there, work / "out", ["--to", "hf"], ranks, route)
                bench.remove(work / "out")
            bench.remove(there)
            bench.remove(model)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
