# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: conversions that run, die and are resumed, and what is on disk then.

RESHARD_PROGRAM names the program.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = os.environ.get("RESHARD_PROGRAM", "reshard")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RESHARD_IO"))}
for variable in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_mpi_yield_when_idle"):
    ENVIRONMENT.setdefault(variable, "1")

SPAN = 16 << 20
PATIENCE_S = 120
KILLED = -signal.SIGKILL
KILLED_BY_MPIRUN = 128 + signal.SIGKILL  # what mpirun says of a rank that was killed

# Fields of /proc/PID/stat after the name.
STATE, SESSION = 0, 3


class Target:
    """A format to write: its options, the outputs that were there before, the files whose bytes the journal counts."""

    def __init__(self, name, options, *, one_file=False, pattern=None):
        self.name, self.options, self.one_file, self.pattern = name, options, one_file, pattern

    def tensor_files(self, output):
        """In the order of the plan; nothing if that order is the format's own affair."""
        if self.one_file:
            return [output]
        return sorted(output.glob(self.pattern)) if self.pattern else None


TARGETS = [
    Target("hf", ["--to", "hf", "--max-shard-size", "40MB"], pattern="*.safetensors"),
    Target("nanotron", ["--to", "nanotron", "--tp", "2", "--pp", "2"]),
    Target("hdf5", ["--to", "hdf5"], one_file=True),
    Target("llms_from_scratch", ["--to", "llms_from_scratch"], pattern="*.pth"),
]


def llama(layers, width=1024, vocabulary=16384):
    """config.json of a Llama: 26 MB a layer and 67 MB of embeddings, as it stands."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": width,
        "intermediate_size": 4 * width, "num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": layers,
        "max_position_embeddings": 2048, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip


def content(path):
    """What is in a file or folder: a hash for each file; nothing if it is not there."""
    if not path.exists():
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    hashes = {}
    for file in files:
        with open(file, "rb") as stream:
            hashes[str(file.relative_to(path))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def unframe(line):
    """The text of a journal's line: LENGTH CRC32 TEXT. Nothing if it is torn or damaged."""
    if not line.endswith(b"\n"):
        return None
    fields = line[:-1].split(b" ", 2)
    if len(fields) != 3 or not fields[0].isdigit() or int(fields[0]) != len(fields[2]):
        return None
    return fields[2] if fields[1] == b"%08x" % zlib.crc32(fields[2]) else None


def read_log(path):
    """(file, span) of the whole records of a process's journal."""
    texts = []
    for line in path.read_bytes().splitlines(keepends=True):
        text = unframe(line)
        if text is None:
            break
        texts.append(json.loads(text))
    assert not texts or texts[0]["journal"] == 1, (path, texts[0])
    return [(record["file"], record["span"]) for record in texts[1:]]


def processes():
    """State and session of each process that there is."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # gone meanwhile
                continue
            found[int(entry)] = (fields[STATE], int(fields[SESSION]))
    return found


class Job:
    """A conversion that runs: the program alone, or mpirun with its ranks, in a session of its own."""

    def __init__(self, command, ranks=1, environment=None, preexec=None, last_rank=None):
        """`last_rank` is the environment of that rank alone."""
        program = [PROGRAM, *map(str, command)]
        self.command, self.ranks = program, ranks
        if last_rank:
            settings = [f"{name}={value}" for name, value in last_rank.items()]
            self.command = ["mpirun", "-n", str(ranks - 1), *program, ":", "-n", "1", "env", *settings, *program]
        elif ranks > 1:
            self.command = ["mpirun", "-n", str(ranks), *program]
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdout=self.out, stderr=self.err, stdin=subprocess.DEVNULL, start_new_session=True,
                                        env={**ENVIRONMENT, **(environment or {})}, preexec_fn=preexec)  # fmt: skip

    def living(self):
        """Its processes, the launcher first."""
        own = [pid for pid, (state, session) in processes().items() if session == self.process.pid and state not in "ZX"]
        return sorted(own, key=lambda pid: (pid != self.process.pid, pid))

    def rank_processes(self):
        """Those that convert."""
        found = []
        for pid in self.living():
            try:
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == os.path.basename(os.path.realpath(PROGRAM)):
                    found.append(pid)
            except OSError:  # gone meanwhile
                continue
        return found

    def wait(self):
        """Its exit status, when all of its processes are gone."""
        status = self.process.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while self.living():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self}: ended with {status}, but processes {self.living()} go on")
            time.sleep(0.02)
        return status

    def text(self):
        return self.read(self.out) + self.read(self.err)

    def report(self):
        return json.loads(self.read(self.out))

    @staticmethod
    def read(file):
        file.seek(0)
        return file.read()

    def was_killed(self):
        return self.process.returncode in (KILLED, KILLED_BY_MPIRUN)

    def __str__(self):
        return " ".join(self.command)


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def bytes_written(pid):
    """By its system calls; 0 if it is gone."""
    try:
        return int(re.search(r"^wchar: (\d+)$", pathlib.Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)[1])
    except OSError:
        return 0


class Case(unittest.TestCase):
    """Tests that share a folder."""

    @classmethod
    def setUpClass(cls):
        cls.work = Workplace()
        cls.addClassCleanup(cls.work.close)


class Workplace:
    """A folder with the sources, the reference outputs, and one output path at which conversions are made and killed."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="reshard-faults-"))
        self.dst = self.folder / "run" / "out"
        self.dst.parent.mkdir()
        self.small = self.folder / "small"
        shutil.copytree(ROOT / "tests/data/llama-tiny", self.small)
        self._large = None
        self.references = {}

    def close(self):
        shutil.rmtree(self.folder)

    @property
    def large(self):
        """A dozen spans."""
        if self._large is None:
            self._large = self.make_model("large", layers=5)
        return self._large

    def make_model(self, name, layers):
        config = self.folder / f"{name}.json"
        config.write_text(json.dumps(llama(layers)))
        model = self.folder / name
        self.done(Job(["convert", f"synthetic:{config}", model, "--to", "hf", "--progress", 0]))
        return model

    def done(self, job):
        if job.wait() != 0:
            raise AssertionError(f"{job}: exit status {job.process.returncode}\n{job.text()}")
        return job

    def convert(self, src, target, *more, ranks=1, **keywords):
        return Job(["convert", src, self.dst, *target.options, *more, "--json", "--progress", 0], ranks, **keywords)

    def reference(self, src, target):
        """What an undisturbed conversion makes, and the sizes of its tensor files."""
        key = (src, target.name)
        if key not in self.references:
            self.clear()
            report = self.done(self.convert(src, target)).report()
            files = target.tensor_files(self.dst)
            self.references[key] = Reference(content(self.dst), report["target"]["bytes"], files and [f.stat().st_size for f in files])
            self.clear()
        return self.references[key]

    def beside(self, suffix):
        return self.dst.with_name(self.dst.name + suffix)

    def journal(self):
        return self.beside(".journal")

    def partial(self):
        return self.beside(".partial")

    def logs(self):
        """Spans that each process's journal tells of, by name of the journal."""
        return {path.name: read_log(path) for path in sorted(self.journal().glob("*.log"))}

    def durable(self):
        return {span for log in self.logs().values() for span in log}

    def marked(self):
        """The output is complete, only its name is not."""
        return (self.journal() / "commit").exists()

    def clear(self):
        for path in self.dst.parent.iterdir():
            remove(path)

    def wait_for(self, there, job):
        """Until `there` says so, or the job ends."""
        while not there() and job.process.poll() is None:
            time.sleep(0.002)


class Reference:
    def __init__(self, files, num_bytes, sizes):
        self.files, self.num_bytes, self.sizes = files, num_bytes, sizes

    def bytes_of(self, spans):
        """Of durable spans; nothing if the order of the files is not known."""
        return sum(min(SPAN, self.sizes[file] - span * SPAN) for file, span in spans) if self.sizes else None
