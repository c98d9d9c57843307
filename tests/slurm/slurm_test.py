#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The templates of slurm/ and the launcher, under a real Slurm.

slurm/test-cluster/cluster.sh run tests/slurm/slurm_test.py [Class[.test] ...]: RESHARD_PROGRAM names the program.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEMPLATES = ROOT / "slurm"
CLUSTER = ROOT / "slurm/test-cluster/cluster.sh"
RUN = ROOT / "launch/reshard-run"
PROGRAM = os.path.abspath(shutil.which(os.environ.get("RESHARD_PROGRAM", "reshard")) or "no reshard; set RESHARD_PROGRAM")
TINY = ROOT / "tests/data/llama-tiny"
TO = ("--to", "hf", "--max-shard-size", "5MB")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

# Two "nodes" on one host, of few cores: ranks find each other by the loopback interface, and give way while they wait.
ENVIRONMENT = {**os.environ, "RESHARD": PROGRAM, "OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_mpi_yield_when_idle": "1"}

# A model of 167 MB, of values made up while they are read.
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8000, "hidden_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 4096, "max_position_embeddings": 4096, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
MODEL_BYTES = 167 * 10**6


def output_of(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False, text=True, env=ENVIRONMENT, timeout=60)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stderr}")
    return done.stdout


def written(dst):
    """Bytes that DST.partial really holds by now."""
    partial = pathlib.Path(f"{dst}.partial")
    return sum(path.stat().st_blocks * 512 for path in partial.rglob("*") if path.is_file())


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="reshard-slurm-"))
        cls.addClassCleanup(shutil.rmtree, cls.shared)

    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(dir=self.shared))
        self.jobs = []
        self.addCleanup(self.end_jobs)

    def end_jobs(self):
        for job in self.jobs:
            subprocess.run(["scancel", job], check=False)

    @classmethod
    def synthetic(cls):
        """SRC of that model."""
        path = cls.shared / "config.json"
        path.write_text(json.dumps(CONFIG))
        return f"synthetic:{path}"

    def convert(self, src, name="alone", *options):
        """What the program alone makes of it."""
        dst = self.work / name
        if not dst.exists():
            subprocess.run([PROGRAM, "convert", src, dst, *TO, *options], check=True, capture_output=True)
        return dst

    def assert_same(self, dst, expected):
        compared = subprocess.run(["diff", "-r", expected, dst], capture_output=True, text=True, check=False)
        self.assertEqual(compared.stdout + compared.stderr, "")
        for left in (".partial", ".journal", ".old"):
            self.assertFalse(pathlib.Path(f"{dst}{left}").exists(), left)

    def submit(self, template, *arguments, options=(), rate=None, **environment):
        """Submits a template; `rate`: bytes per second that each process may read and write. Returns the job."""
        if rate:
            environment["RESHARD_IO_THROTTLE"] = f"{rate},{rate}"
        is_array = any(option.startswith("--array") for option in options)
        where = ["--output", f"{self.work}/{template.stem}-{len(self.jobs)}" + ("-%a" if is_array else "")]
        command = ["sbatch", "--parsable", *where, *options, template, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env={**ENVIRONMENT, **environment})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.jobs.append(done.stdout.strip())
        return self.jobs[-1]

    def job(self, job):
        """What Slurm knows of a job or task (JOB_TASK); the first of an array."""
        line = output_of("scontrol", "show", "job", "--oneliner", job).splitlines()[0]
        return dict(word.partition("=")[::2] for word in line.split())

    def log(self, job):
        path = self.job(job)["StdOut"]
        return pathlib.Path(path).read_text() if os.path.exists(path) else ""

    def wait_until(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = "".join(f"\n{path}:\n{path.read_text()}" for path in sorted(self.work.glob("*-[0-9]*")) if path.is_file())
                self.fail(f"not within {seconds} s: {what}\n{output_of('squeue')}{logs}")
            time.sleep(0.2)

    def wait_for(self, job, state="COMPLETED", code="0:0", seconds=90):
        self.wait_until(lambda: self.job(job)["JobState"] in ENDED, f"end of job {job}", seconds)
        ended = self.job(job)
        self.assertEqual((ended["JobState"], ended["ExitCode"]), (state, code), self.log(job))

    def wait_for_bytes(self, job, dst, least):
        self.wait_until(lambda: written(dst) >= least or self.job(job)["JobState"] in ENDED, f"{least} bytes in {dst}.partial")
        self.assertEqual(self.job(job)["JobState"], "RUNNING", self.log(job))

    def status(self, what):
        """Exit status and text of `reshard status`."""
        done = subprocess.run([PROGRAM, "status", what], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def bytes_of_last_run(self, dst):
        report = json.loads(pathlib.Path(f"{dst}.report.json").read_text())
        return sum(rank["bytes_written"] for rank in report["stream"]["ranks"])


class Templates(Case):
    def test_convert_over_two_nodes(self):
        dst = self.work / "out"
        job = self.submit(TEMPLATES / "convert.sbatch", TINY, dst, *TO, options=["--nodes=2"])
        self.wait_for(job)
        self.assert_same(dst, self.convert(TINY))
        self.assertEqual(self.job(job)["NumNodes"], "2")
        self.assertEqual(len(json.loads(pathlib.Path(f"{dst}.report.json").read_text())["stream"]["ranks"]), 8)

    def test_templates_of_an_install_tree_need_no_path(self):
        prefix = self.work / "prefix"
        for path in (prefix / "bin", prefix / "share/reshard/slurm"):
            path.mkdir(parents=True)
        shutil.copy(RUN, prefix / "bin")
        (prefix / "bin/reshard").symlink_to(PROGRAM)
        template = shutil.copy(TEMPLATES / "convert.sbatch", prefix / "share/reshard/slurm")
        environment = {name: value for name, value in ENVIRONMENT.items() if name != "RESHARD"}
        subprocess.run(["sbatch", "--wait", f"--output={self.work}/log", "--ntasks-per-node=1", template, TINY, self.work / "out", *TO],
                       check=True, env={**environment, "PATH": "/usr/bin:/bin"}, timeout=60)  # fmt: skip
        self.assertIn(f"{prefix}/bin/reshard convert", (self.work / "log").read_text())
        self.assert_same(self.work / "out", self.convert(TINY))

    def test_array_of_lines(self):
        """One line is no JSON: that task fails and says which line it is; the others do their work."""
        lines = [json.dumps({"src": str(TINY), "dst": str(self.work / f"tp{tp}"), "to": "nanotron", "tp": tp}) for tp in (1, 2)]
        jobs = self.work / "jobs.jsonl"
        jobs.write_text("\n".join([lines[0], '{"src": "x", ', lines[1]]) + "\n")
        job = self.submit(TEMPLATES / "array.sbatch", jobs, "--dtype", "fp16", options=["--array=1-3"])
        for task in (1, 3):
            self.wait_for(f"{job}_{task}")
        self.wait_for(f"{job}_2", "FAILED", "2:0")
        self.assertRegex(self.log(f"{job}_2"), r"jobs\.jsonl.*\b2\b")
        for tp in (1, 2):
            found = json.loads(output_of(PROGRAM, "inspect", self.work / f"tp{tp}", "--json"))
            self.assertEqual((found["mesh"]["tp"], {array["dtype"] for array in found["arrays"]}), (tp, {"F16"}))

    def test_checkpoints_of_a_run(self):
        """`reshard jobs` writes the lines, the array does them, `reshard status` sees it, and then there are no lines to write."""
        (self.work / "run").mkdir()
        for step in (10, 20):
            output_of(PROGRAM, "convert", TINY, self.work / f"run/{step}", "--to", "nanotron", "--tp", 2)

        def lines():
            return output_of(PROGRAM, "jobs", self.work / "run", "*", *TO, "--vocab-size", 259, "--out", self.work / "hf")

        jobs = self.work / "jobs.jsonl"
        jobs.write_text(lines())
        self.assertEqual(len(jobs.read_text().splitlines()), 2)
        self.assertEqual(self.status(jobs)[0], 1)
        job = self.submit(TEMPLATES / "array.sbatch", jobs, options=["--array=1-2"])
        for task in (1, 2):
            self.wait_for(f"{job}_{task}")
        self.assertEqual(self.status(jobs)[0], 0, self.status(jobs)[1])
        self.assertEqual(lines(), "")
        outputs = sorted((self.work / "hf").glob("*/model*.safetensors"))
        self.assertEqual(len(outputs), 2, outputs)
        self.assertEqual(outputs[0].read_bytes(), outputs[1].read_bytes())

    def test_launcher_in_an_allocation(self):
        done = subprocess.run(["salloc", "--nodes=2", "--ntasks=3", "--cpus-per-task=2", RUN, TINY, self.work / "out", *TO],
                              capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("+ srun --nodes=2 --ntasks=3 --cpus-per-task=2 --mpi=pmix ", done.stderr)
        self.assert_same(self.work / "out", self.convert(TINY))

    def test_launcher_ends_with_the_status_of_the_program(self):
        for arguments, status in (((TINY, self.work / "out", "--to", "nonsense"), 2), ((self.work / "none", self.work / "out", *TO), 3)):
            done = subprocess.run(["salloc", "--ntasks=2", RUN, *arguments], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)
            self.assertEqual(done.returncode, status, done.stderr)

    def test_launcher_is_started_once(self):
        done = subprocess.run(["srun", "--ntasks=2", RUN, TINY, self.work / "out", *TO], capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("start it once", done.stderr)


class SameOutput(Case):
    def test_second_task_refuses(self):
        """Two lines of an array name one output; whichever comes second finds it claimed."""
        dst = self.work / "out"
        jobs = self.work / "jobs.jsonl"
        jobs.write_text(2 * (json.dumps({"src": self.synthetic(), "dst": str(dst), "to": "hf", "max-shard-size": "5MB"}) + "\n"))
        job = self.submit(TEMPLATES / "array.sbatch", jobs, options=["--array=1-2"], rate="25MB")
        tasks = (f"{job}_1", f"{job}_2")
        self.wait_until(lambda: all(self.job(task)["JobState"] in ENDED for task in tasks), "end of both")
        self.assertEqual(sorted(self.job(task)["ExitCode"] for task in tasks), ["0:0", "2:0"], "".join(map(self.log, tasks)))
        refused = next(task for task in tasks if self.job(task)["ExitCode"] == "2:0")
        self.assertIn(str(dst), self.log(refused))
        self.assert_same(dst, self.convert(self.synthetic()))


class Parts(Case):
    def test_parts_write_what_one_job_writes(self):
        """Four parts, two at a time; one is requeued on its way. Doing one again afterwards changes nothing."""
        dst = self.work / "out"
        arguments = [self.synthetic(), dst, *TO]
        job = self.submit(TEMPLATES / "parts.sbatch", *arguments, options=["--array=1-4%2"], rate="15MB")
        self.wait_for_bytes(f"{job}_1", dst, MODEL_BYTES // 20)
        output_of("scontrol", "requeue", f"{job}_1")
        for task in range(1, 5):
            self.wait_for(f"{job}_{task}")
        self.assertEqual(self.job(f"{job}_1")["Restarts"], "1")
        self.assert_same(dst, self.convert(self.synthetic()))
        again = self.submit(TEMPLATES / "parts.sbatch", "--parts", 4, *arguments, options=["--array=2,4"])
        for task in (2, 4):
            self.wait_for(f"{again}_{task}")
        self.assert_same(dst, self.convert(self.synthetic()))

    def test_parts_may_be_mpi_jobs(self):
        dst = self.work / "out"
        job = self.submit(TEMPLATES / "parts.sbatch", TINY, dst, *TO, options=["--array=1-2", "--ntasks-per-node=2"])
        for task in (1, 2):
            self.wait_for(f"{job}_{task}")
        self.assert_same(dst, self.convert(TINY))

    def test_some_parts_need_the_number_of_all(self):
        job = self.submit(TEMPLATES / "parts.sbatch", TINY, self.work / "out", *TO, options=["--array=2-3"])
        for task in (2, 3):
            self.wait_for(f"{job}_{task}", "FAILED", "2:0")
            self.assertIn("--parts N", self.log(f"{job}_{task}"))
        self.assertFalse((self.work / "out.partial").exists())


class Interrupted(Case):
    """A conversion over two nodes, 15 MB/s each, stopped in the middle."""

    def start(self, *options):
        self.dst = self.work / "out"
        job = self.submit(TEMPLATES / "convert.sbatch", self.synthetic(), self.dst, *TO, rate="15MB", options=["--nodes=2", "--ntasks-per-node=1", *options])
        self.wait_for_bytes(job, self.dst, MODEL_BYTES // 2)
        return job

    def assert_went_on(self):
        self.assert_same(self.dst, self.convert(self.synthetic()))
        self.assertLess(self.bytes_of_last_run(self.dst), MODEL_BYTES * 3 // 4)

    def test_requeued(self):
        job = self.start()
        output_of("scontrol", "requeue", job)
        self.wait_until(lambda: self.job(job)["JobState"] == "PENDING", "requeue")
        self.assertFalse(self.dst.exists())
        self.wait_for(job)
        self.assertEqual(self.job(job)["Restarts"], "1")
        self.assertIn("not requeued", self.log(job))  # by the launcher, as somebody had done it
        self.assert_went_on()

    def test_told_to_stop(self):
        """What --signal does before the time limit, now: the launcher requeues the job, and only that many times."""
        job = self.start()
        output_of("scancel", "--batch", "--signal=USR1", job)
        self.wait_until(lambda: self.job(job)["JobState"] == "PENDING", "requeue", 20)
        self.assertEqual(self.status(self.dst)[0], 4, self.status(self.dst)[1])
        self.wait_for(job)
        self.assertEqual(self.job(job)["Restarts"], "1")
        self.assert_went_on()

    def test_restarts_are_bounded(self):
        template = self.work / "once.sbatch"
        template.write_text((TEMPLATES / "convert.sbatch").read_text().replace("$here/../launch", str(RUN.parent)).replace("--requeue 20", "--requeue 0"))
        job = self.submit(template, self.synthetic(), self.work / "out", *TO, rate="15MB", options=["--ntasks-per-node=1"])
        self.wait_for_bytes(job, self.work / "out", 1 << 20)
        output_of("scancel", "--batch", "--signal=USR1", job)
        self.wait_for(job, "FAILED", "4:0")
        self.assertIn("not requeued: this was restart 0 of at most 0", self.log(job))

    def test_preempted(self):
        job = self.start()
        output_of("sbatch", "--wait", "--partition=urgent", "--nodes=2", "--exclusive", "--mem=100", "--output=/dev/null", "--wrap=true")
        self.wait_for(job)
        self.assertEqual(self.job(job)["Restarts"], "1")
        self.assert_went_on()

    def test_preempted_after_a_time_of_grace(self):
        """Then Slurm tells the program alone, and would end the job."""
        output_of("scontrol", "update", "PartitionName=all", "GraceTime=20", "PreemptMode=CANCEL")
        self.addCleanup(output_of, "scontrol", "update", "PartitionName=all", "GraceTime=0", "PreemptMode=REQUEUE")
        job = self.start()
        output_of("sbatch", "--wait", "--partition=urgent", "--nodes=2", "--exclusive", "--mem=100", "--output=/dev/null", "--wrap=true")
        self.wait_for(job)
        self.assertEqual(self.job(job)["Restarts"], "1")
        self.assert_went_on()

    def test_cancelled_and_submitted_again(self):
        job = self.start()
        output_of("scancel", job)
        self.wait_until(lambda: self.job(job)["JobState"] == "CANCELLED", "cancellation", 20)
        self.assertEqual(self.job(job)["Restarts"], "0")
        self.assertFalse(self.dst.exists())
        self.assertEqual(self.status(self.dst)[0], 4, self.status(self.dst)[1])
        self.wait_for(self.submit(TEMPLATES / "convert.sbatch", self.synthetic(), self.dst, *TO))
        self.assert_went_on()

    def test_failure_is_not_requeued(self):
        job = self.submit(TEMPLATES / "convert.sbatch", self.synthetic(), self.work / "out", *TO, options=["--ntasks-per-node=1"],
                          RESHARD_IO_FAULT=f"write:ENOSPC@{MODEL_BYTES // 3}")  # fmt: skip
        self.wait_for(job, "FAILED", "4:0")
        self.assertEqual(self.job(job)["Restarts"], "0")
        status, text = self.status(self.work / "out")
        self.assertEqual(status, 4, text)
        self.assertIn("No space left", text)


class LostNode(Case):
    def test_job_of_a_lost_node_goes_on_elsewhere(self):
        """Slurm requeues the job when it has given up the node; status sees that nobody works on it."""
        dst = self.work / "out"
        job = self.submit(TEMPLATES / "convert.sbatch", self.synthetic(), dst, *TO, rate="20MB", options=["--ntasks-per-node=1"])
        self.wait_for_bytes(job, dst, MODEL_BYTES // 3)
        lost = self.job(job)["BatchHost"]
        other = "node1" if lost == "node2" else "node2"
        self.assertEqual(self.status(dst)[0], 1, self.status(dst)[1])
        output_of("scontrol", "update", f"NodeName={other}", "State=DRAIN", "Reason=test")
        subprocess.run([CLUSTER, "kill", pathlib.Path(os.environ["SLURM_CONF"]).parent, lost], check=True)
        self.wait_until(lambda: self.status(dst)[0] == 4, "status that the job has stopped")
        self.assertRegex(self.status(dst)[1], r"stopped .*(silent|gone without a word)")
        self.assertFalse(dst.exists())
        self.wait_until(lambda: self.job(job)["JobState"] == "PENDING", "requeue")
        output_of("scontrol", "update", f"NodeName={other}", "State=RESUME")
        self.wait_for(job)
        self.assertEqual(self.job(job)["BatchHost"], other)
        self.assert_same(dst, self.convert(self.synthetic()))


class TimeLimit(Case):
    def test_job_goes_on_after_its_time_limit(self):
        """A minute is Slurm's shortest limit, and half a minute before it the job is told; the conversion takes longer."""
        dst = self.work / "out"
        job = self.submit(TEMPLATES / "convert.sbatch", self.synthetic(), dst, *TO, rate="4MB", options=["--time=1", "--signal=B:USR1@30", "--ntasks-per-node=1"])
        self.wait_for(job, seconds=200)
        self.assertGreaterEqual(int(self.job(job)["Restarts"]), 1)
        self.assertIn("reshard-run: requeueing job", self.log(job))
        self.assert_same(dst, self.convert(self.synthetic()))
        self.assertLess(self.bytes_of_last_run(dst), MODEL_BYTES * 3 // 4)


if __name__ == "__main__":
    unittest.main(verbosity=2)
