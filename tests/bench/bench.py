# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks in Python share: a table with a JSON file beside it, timed commands, cold caches, models on disk."""

import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent

# Ranks may be more than cores here, and run as whoever runs the benchmark.
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}


def first_value(path, key, separator):
    for line in open(path):
        name, _, value = line.partition(separator)
        if name.strip() == key:
            return value.strip().strip('"')
    return "unknown"


def machine():
    """Where a figure was measured; report.h writes the same keys."""
    return {
        "cpu": first_value("/proc/cpuinfo", "model name", ":"),
        "cores": os.cpu_count(),
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30,
        "system": first_value("/etc/os-release", "PRETTY_NAME", "="),
        "kernel": platform.release(),
    }


class Report:
    """A fixed table on stdout, and the same rows as JSON with machine, date and command."""

    def __init__(self, name, columns):
        """`columns`: (key, title, width, digits); a negative width is text, aligned left."""
        self.name, self.columns, self.rows = name, columns, []
        self.more = {}  # for the file, beside the rows
        self.print_line([title for _, title, _, _ in columns])

    def print_line(self, texts):
        cells = [f"{t:<{-w}}" if w < 0 else f"{t:>{w}}" for t, (_, _, w, _) in zip(texts, self.columns)]
        print("  ".join(cells).rstrip(), flush=True)

    def add(self, row):
        """A row has a value under each column's key (none: "-") and others for the file alone. ok=False: a bar was missed."""
        texts = []
        for key, _, _, digits in self.columns:
            value = row.get(key)
            if value is None:
                texts.append("-")
            elif isinstance(value, bool):
                texts.append("yes" if value else "NO")
            elif isinstance(value, str):
                texts.append(value)
            else:
                texts.append(f"{value:.{digits}f}")
        self.print_line(texts)
        self.rows.append(row)

    def finish(self, json_file):
        """Writes the file if one is named. Returns the exit status: 1 if a bar was missed."""
        if json_file:
            date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
            command = " ".join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])
            report = {"benchmark": self.name, "date": date, "command": command, "machine": machine(), **self.more, "rows": self.rows}
            pathlib.Path(json_file).write_text(json.dumps(report, indent=2) + "\n")
        return 0 if all(row.get("ok", True) for row in self.rows) else 1


class Timed:
    """A command that ran: wall and processor seconds, the largest resident size among its processes, its output."""

    def __init__(self, command, env=None):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.monotonic()
            process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **MPI, **(env or {})})
            _, status, usage = os.wait4(process.pid, 0)
            self.seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            self.output = out.read().decode()
            if process.returncode != 0:
                err.seek(0)
                sys.exit(f"{' '.join(map(str, command))}: exit status {process.returncode}\n{err.read().decode()}")
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.peak_mib = usage.ru_maxrss / 1024


def remove(path):
    """Removes a file or folder, with what a conversion puts beside it."""
    for one in (path, pathlib.Path(f"{path}.report.json"), pathlib.Path(f"{path}.reshard.json")):
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink(missing_ok=True)


def files_of(path):
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def bytes_of(path):
    return sum(p.stat().st_size for p in files_of(path))


def drop_caches(path):
    """Nothing is dirty, nothing of `path` is in memory."""
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:  # not root: at least the files that will be read
        for file in files_of(path):
            fd = os.open(file, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


class Program:
    """The programs of a build folder."""

    def __init__(self, build):
        build = pathlib.Path(build).resolve()
        self.reshard = build / "reshard"
        self.store_probe, self.repack_bench, self.exchange_bench = (
            build / "tests" / name for name in ("store_probe", "repack_bench", "exchange_bench"))  # fmt: skip
        for program in (self.reshard, self.store_probe, self.repack_bench, self.exchange_bench):
            if not program.exists():
                sys.exit(f"{program}: missing; build first, or name the build folder with --build")

    def command(self, ranks, *arguments):
        launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
        return [*launcher, self.reshard, *arguments]

    def convert(self, ranks, src, dst, *options, env=None):
        """Runs a conversion; its report is `report` of what is returned."""
        timed = Timed(self.command(ranks, "convert", src, dst, *options, "--json", "--progress", "0"), env)
        timed.report = json.loads(timed.output)
        return timed


def make_cold(program, path):
    """As drop_caches, but for the programs: only the data is cold."""
    drop_caches(path)
    for warm in ([program.reshard, "--version"], [program.store_probe], ["cp", "--version"], ["mpirun", "--version"]):
        subprocess.run(warm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def model_config(kind, gigabytes, expert_width=64):
    """config.json of a model of about that size in bf16: `dense` of few large tensors, `moe` of very many small ones."""
    embed, vocab = (4096, 32768) if kind == "dense" else (1024, 32768)
    config = {
        "vocab_size": vocab,
        "hidden_size": embed,
        "num_attention_heads": embed // 128,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    attention = embed * embed * 2 + embed * 8 * 128 * 2
    if kind == "dense":
        config.update(model_type="llama", architectures=["LlamaForCausalLM"], intermediate_size=14336)
        layer = attention + 3 * embed * config["intermediate_size"]
    else:
        config.update(
            model_type="qwen2_moe", architectures=["Qwen2MoeForCausalLM"], intermediate_size=2048,
            num_experts=160, num_experts_per_tok=4, moe_intermediate_size=expert_width, shared_expert_intermediate_size=512,
            decoder_sparse_step=1, norm_topk_prob=False)  # fmt: skip
        layer = attention + embed * (160 + 3 * 160 * expert_width + 3 * 512)
    config["num_hidden_layers"] = max(2, round((gigabytes * 1e9 / 2 - 2 * embed * vocab) / layer))
    return config


def write_config(folder, kind, gigabytes, **details):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{gigabytes:g}.json"
    path.write_text(json.dumps(model_config(kind, gigabytes, **details), indent=2) + "\n")
    return path


def make_model(program, folder, kind, gigabytes, **details):
    """An HF checkpoint of such a model, with synthetic values, in folder/KIND-GB."""
    config = write_config(folder, kind, gigabytes, **details)
    model = config.with_suffix("")
    program.convert(1, f"synthetic:{config}", model, "--to", "hf", "--overwrite")
    return model


def add_options(parser, default_gb):
    parser.add_argument("--build", default="build/release", help="folder of the built programs (%(default)s)")
    parser.add_argument("--dir", type=pathlib.Path, help="work folder, on the store to measure (a temporary folder)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--gb", type=float, default=default_gb, help="size of the models, 10^9 bytes (%(default)s)")


class WorkFolder:
    """A folder of our own inside --dir, gone in the end."""

    def __init__(self, inside):
        self.folder = tempfile.TemporaryDirectory(prefix="reshard-bench-", dir=inside)

    def __enter__(self):
        return pathlib.Path(self.folder.name)

    def __exit__(self, *_):
        self.folder.cleanup()
