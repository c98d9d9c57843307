#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `reshard plan --machine` predicts for conversions on this machine, against what they take.

The machine is probed first: its store, copies, messages, and what a conversion of next to nothing costs. Columns and
bars: README.md. Exit status 1 if a bar is missed.
"""

import argparse
import json
import mmap
import os
import pathlib
import statistics
import sys
import tempfile
import time

import bench
import end_to_end

MOST_OFF = 0.25
MESSAGE_BYTES = 4 << 20  # about a rank's message in a round
SETTINGS = ["direct,all,8,4", "direct,all,4,8"]  # what a rank has under way, about


def cold_probe(program, src, like, dst):
    """Seconds of the store probe at the best of a few settings, median of three each."""
    best = float("inf")
    for setting in SETTINGS:
        seconds = []
        for _ in range(3):
            bench.make_cold(program, src)
            seconds.append(json.loads(bench.Timed([program.store_probe, src, like, dst, "--setting", setting]).output)["seconds"])
            bench.remove(dst)
        best = min(best, statistics.median(seconds))
    return best


def probe_store(program, work, model):
    """GB/s of reading alone, of writing alone, and of both at once."""
    empty, dst = work / "empty", work / "probed"
    empty.mkdir()
    gigabytes = bench.bytes_of(model) / 1e9
    return {
        "read": gigabytes / cold_probe(program, model, empty, dst),
        "write": gigabytes / cold_probe(program, empty, model, dst),
        "together": 2 * gigabytes / cold_probe(program, model, model, dst),
    }


def rows_of(command):
    """The rows of one of the C++ benchmarks."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        bench.Timed([*command, "--json", file.name])
        return json.load(file)["rows"]


def probe_memory():
    """GB/s at which all cores together get memory that nobody has used for a while, in huge pages."""
    share, page = 128 << 20, 2 << 20
    rates = []
    for _ in range(3):
        bench.drop_caches(pathlib.Path(__file__))
        time.sleep(3)  # until a host has taken it back
        start, children = time.monotonic(), []
        for _ in range(os.cpu_count()):
            child = os.fork()
            if child == 0:
                memory = mmap.mmap(-1, share, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                memory.madvise(mmap.MADV_HUGEPAGE)
                for at in range(0, share, page):
                    memory[at] = 1
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        rates.append(os.cpu_count() * share / 1e9 / (time.monotonic() - start))
    return statistics.median(rates)


def tiny_model(program, work, kind, layers):
    config = bench.model_config(kind, 0)
    config.update(hidden_size=128, num_attention_heads=8, num_key_value_heads=4, intermediate_size=256, vocab_size=512,
                  num_hidden_layers=layers)  # fmt: skip
    if kind == "moe":
        config.update(moe_intermediate_size=8, shared_expert_intermediate_size=8)
    model = work / f"tiny-{kind}-{layers}"
    path = model.with_suffix(".json")
    path.write_text(json.dumps(config))
    program.convert(1, f"synthetic:{path}", model, "--to", "hf")
    return model


def probe_fixed_costs(program, work):
    """Seconds of the job, of each further rank, array, source and target file: from conversions whose bytes hardly count."""
    dst = work / "out"

    def run(model, options, ranks=1):
        plan = json.loads(bench.Timed(program.command(1, "plan", model, dst, *options, "--json")).output)
        seconds = []
        for _ in range(3):
            bench.make_cold(program, model)
            case = end_to_end.Case("", model, model, dst, options)
            seconds.append(end_to_end.time_reshard(program, case, ranks)["seconds"])
            bench.remove(dst)
        return statistics.median(seconds), plan["source"]["arrays"] + plan["target"]["arrays"], plan["target"]["files"]

    def per_unit(more_s, units):
        return max(0, more_s) / units

    small, large, crowd = (tiny_model(program, work, *of) for of in (("dense", 2), ("dense", 100), ("moe", 50)))
    few_s, few_arrays, few_files = run(small, ["--to", "hf"])
    one_file_s, some_arrays, _ = run(large, ["--to", "hf"])
    many_s, many_arrays, _ = run(crowd, ["--to", "hf"])
    files_s, files_arrays, files = run(large, end_to_end.NANOTRON)
    program.convert(1, large, work / "tiny-files", *end_to_end.NANOTRON)
    back_s, _, _ = run(work / "tiny-files", ["--to", "hf"])
    ranks_s, _, _ = run(small, ["--to", "hf"], ranks=2)
    array_s = per_unit(many_s - few_s, many_arrays - few_arrays)
    more_arrays_s = array_s * (files_arrays - some_arrays)
    file_s = per_unit(files_s - one_file_s - more_arrays_s, files - few_files)
    return {
        "array_s": array_s,
        "src_file_s": per_unit(back_s - one_file_s - more_arrays_s, files - few_files),
        "dst_file_s": file_s,
        "rank_s": max(0, ranks_s - few_s),
        "job_s": max(0, few_s - array_s * few_arrays - file_s * few_files),
    }


def describe_machine(program, work, model):
    """A description as in configs/machines, with figures of this machine."""
    store = probe_store(program, work, model)
    kernels = {row["kernel"]: row["gb_per_s"] for row in rows_of([program.repack_bench])}
    rows = rows_of(["mpirun", "-n", "2", program.exchange_bench])
    messages = next(row for row in rows if row.get("pattern") == "pair" and row["bytes"] == MESSAGE_BYTES)["bus_gb_per_s"]
    fixed = probe_fixed_costs(program, work)
    probe, tiny = "store_probe " + " or ".join(SETTINGS), "conversions of models of 1 to 60 MB"
    limits = {
        side: {"rank_gb_per_s": rate, "node_gb_per_s": rate, "all_gb_per_s": rate, "source": probe} for side, rate in store.items()
    }
    return {
        "machine": "probed",
        "cores_per_node": os.cpu_count(),
        "gpus_per_node": 0,
        "store": limits,
        "host_copy": {"rank_gb_per_s": messages, "source": "exchange_bench: pair of 4 MiB, 2 ranks"},
        "repack": {"thread_gb_per_s": kernels["contiguous BF16 + digest"], "source": "repack_bench: contiguous BF16 + digest"},
        "start": {"job_s": fixed["job_s"], "rank_s": fixed["rank_s"], "file_s": fixed["src_file_s"], "array_s": fixed["array_s"],
                  "touch_gb_per_s": probe_memory(), "source": tiny + "; touch: mmap"},
        "finish": {"file_s": fixed["dst_file_s"], "source": tiny},
    }


def compare(program, case, ranks, machine, rounds, report):
    options = [*case.options, "--machine", machine, "--ranks", str(ranks)]
    prediction = json.loads(bench.Timed(program.command(1, "plan", case.src, case.dst, *options, "--json")).output)["prediction"]
    del prediction["machine"]  # a file that will be gone
    runs = []
    for _ in range(rounds):
        bench.make_cold(program, case.src)
        load = os.getloadavg()[0]
        runs.append({**end_to_end.time_reshard(program, case, ranks), "load": load})
        bench.remove(case.dst)
    measured = statistics.median(run["seconds"] for run in runs)
    stages = {part["stage"]: part["seconds"] for part in prediction["stages"]}
    ratio = prediction["seconds"] / measured
    report.add({
        "case": case.name, "ranks": ranks, "gb": bench.bytes_of(case.like) / 1e9,
        "start_s": prediction["start_seconds"], **{f"{stage}_s": seconds for stage, seconds in stages.items()},
        "both_s": prediction["store_together_seconds"], "finish_s": prediction["finish_seconds"], "binds": prediction["binds"],
        "predicted_s": prediction["seconds"], "measured_s": measured,
        "best_s": min(run["seconds"] for run in runs), "worst_s": max(run["seconds"] for run in runs),
        "ratio": ratio, "load": max(run["load"] for run in runs), "runs": runs, "prediction": prediction,
        "ok": abs(ratio - 1) <= MOST_OFF,
    })  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_options(parser, 2)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each conversion (%(default)s)")
    options = parser.parse_args()
    program = bench.Program(options.build)
    with bench.WorkFolder(options.dir) as work:
        model = bench.make_model(program, work, "dense", options.gb)
        machine = work / "machine.json"
        description = describe_machine(program, work, model)
        machine.write_text(json.dumps(description, indent=2) + "\n")
        report = bench.Report("prediction", [
            ("case", "case", -22, 0), ("ranks", "ranks", 5, 0), ("gb", "GB", 5, 2), ("start_s", "start", 5, 2), ("read_s", "read", 5, 2),
            ("repack_s", "repack", 6, 2), ("exchange_s", "exchange", 8, 2), ("write_s", "write", 5, 2), ("both_s", "both", 5, 2),
            ("finish_s", "finish", 6, 2), ("binds", "binds", -23, 0), ("predicted_s", "predicted s", 11, 2),
            ("measured_s", "measured s", 10, 2), ("best_s", "best s", 6, 2), ("worst_s", "worst s", 7, 2), ("ratio", "ratio", 5, 2),
            ("load", "load", 5, 1), ("ok", "ok", -3, 0),
        ])  # fmt: skip
        report.more["probed"] = description
        dst, like, mp8, mp2 = work / "out", work / "nanotron", work / "mp8", ["--to", "meta", "--tp", "2"]
        program.convert(1, model, like, *end_to_end.NANOTRON)
        compare(program, end_to_end.Case("hf to nanotron", model, like, dst, end_to_end.NANOTRON), 1, machine, options.rounds, report)
        exchange = [*end_to_end.NANOTRON, "--route", "exchange"]
        compare(program, end_to_end.Case("the same, exchange", model, like, dst, exchange), 2, machine, options.rounds, report)
        bench.remove(like)
        program.convert(1, model, mp8, "--to", "meta", "--tp", "8")
        bench.remove(model)
        compare(program, end_to_end.Case("meta mp8 to mp2", mp8, mp8, dst, mp2), 1, machine, options.rounds, report)
        bench.remove(mp8)
        moe = bench.make_model(program, work, "moe", options.gb)
        compare(program, end_to_end.Case("moe hf to nanotron", moe, moe, dst, end_to_end.NANOTRON), 1, machine, options.rounds, report)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
