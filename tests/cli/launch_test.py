#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""launch/reshard-run without Slurm: which command it makes, for this machine and for made-up ones; signals; statuses.

launch_test.py [Class[.test] ...]: RESHARD_PROGRAM names the program.
"""

import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RUN = ROOT / "launch/reshard-run"
PROGRAM = os.environ.get("RESHARD_PROGRAM", "reshard")
MODEL = ROOT / "tests/data/llama-tiny"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
for variable in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_mpi_yield_when_idle"):
    ENVIRONMENT.setdefault(variable, "1")

# Says that it runs, and ends with 4 when it is told to stop: what a conversion does.
STAND_IN = """#!/usr/bin/env python3
import os, signal, sys, time
def stop(number, frame):
    os.write(1, f"rank {os.environ.get('OMPI_COMM_WORLD_RANK')} got {signal.Signals(number).name}\\n".encode())
    sys.exit(4)
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
os.write(1, f"ready {sorted(os.sched_getaffinity(0))}\\n".encode())
time.sleep(60)
"""


def load_launcher():
    loader = importlib.machinery.SourceFileLoader("reshard_run", str(RUN))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("reshard_run", loader))
    loader.exec_module(module)
    return module


class Case(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="reshard-launch-"))
        self.addCleanup(shutil.rmtree, self.work)

    def script(self, name, text):
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run_launcher(self, *arguments, status=0, launcher=RUN, **environment):
        done = subprocess.run([sys.executable, str(launcher), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
                              env={**ENVIRONMENT, "RESHARD": PROGRAM, **environment})  # fmt: skip
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def printed(self, *arguments, **environment):
        return shlex.split(self.run_launcher("--print", *arguments, **environment).stdout)


class Command(Case):
    def test_small_job_runs_alone(self):
        self.assertEqual(self.printed(MODEL, "out", "--to", "nanotron"), [PROGRAM, "convert", str(MODEL), "out", "--to", "nanotron"])

    def test_job_file(self):
        self.assertEqual(self.printed("a job.json", "--overwrite", "--ranks", 1), [PROGRAM, "convert", "--config", "a job.json", "--overwrite"])
        self.assertEqual(self.printed("index.json", "out", "--ranks", 1), [PROGRAM, "convert", "index.json", "out"])

    def test_ranks_asked_for(self):
        command = self.printed("--ranks=3", "a", "b", "--tp", 2)
        self.assertEqual(command[0], "mpirun")
        self.assertEqual(command[command.index("-n") :], ["-n", "3", PROGRAM, "convert", "a", "b", "--tp", "2"])

    def test_program_may_be_a_command_line(self):
        self.assertEqual(self.printed("a", "b", "--ranks", 1, RESHARD="apptainer exec 'my image.sif' reshard"),
                         ["apptainer", "exec", "my image.sif", "reshard", "convert", "a", "b"])  # fmt: skip

    def test_program_of_an_install_tree_is_beside_it(self):
        program = self.script("prefix/bin/reshard", "#!/bin/sh\n")
        launcher = shutil.copy(RUN, self.work / "prefix/bin/reshard-run")
        self.assertEqual(self.printed("a", "b", "--ranks", 1, launcher=launcher, RESHARD=""), [str(program.resolve()), "convert", "a", "b"])
        program.unlink()
        refused = self.run_launcher("a", "b", "--ranks", 1, status=127, launcher=launcher, RESHARD="", PATH="/usr/bin:/bin")
        self.assertIn("set RESHARD=", refused.stderr)

    def test_wrong_usage(self):
        self.assertIn("are missing", self.run_launcher(status=2).stderr)
        self.assertIn("--ranks: a number from 1 on", self.run_launcher("--ranks", 0, "a", "b", status=2).stderr)
        self.assertIn("no Slurm job", self.run_launcher("--requeue", 3, "a", "b", status=2).stderr)
        self.assertIn("not allowed with", self.run_launcher("--print", "--sbatch", "a", "b", status=2).stderr)


class Machine(Case):
    """Commands for machines that are not this one."""

    def setUp(self):
        super().setUp()
        self.launcher = load_launcher()
        self.patch(self.launcher, "SYS", self.work)
        self.patch(self.launcher.shutil, "which", lambda name: f"/usr/bin/{name}")
        self.patch(self.launcher, "available_memory", lambda: 64 << 30)
        environment = mock.patch.dict(os.environ, ENVIRONMENT, clear=True)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)

    def patch(self, *arguments):
        patcher = mock.patch.object(*arguments)
        patcher.start()
        self.addCleanup(patcher.stop)

    def machine(self, *cpu_lists, gpus=()):
        """NUMA nodes with these processors, and GPUs on these nodes."""
        cpus = set()
        for node, cpu_list in enumerate(cpu_lists):
            self.script(f"devices/system/node/node{node}/cpulist", cpu_list + "\n")
            cpus.update(self.launcher.numbers(cpu_list))
        for slot, (vendor, kind, node) in enumerate([("0x8086", "0x020000", 0), *(("0x10de", "0x030200", node) for node in gpus), ("0x10de", "0x068000", 1)]):
            for name, value in (("vendor", vendor), ("class", kind), ("numa_node", node)):
                self.script(f"bus/pci/devices/0000:{slot:02x}:00.0/{name}", f"{value}\n")
        self.patch(self.launcher.os, "sched_getaffinity", lambda _: cpus)
        self.patch(self.launcher.os, "cpu_count", lambda: len(cpus))

    def mpirun(self, ranks):
        return " ".join(self.launcher.mpirun_command(["P"], ranks))

    def test_one_numa_node_binds_nothing(self):
        self.machine("0-15")
        self.assertEqual(self.mpirun(4), "mpirun --bind-to none -n 4 P")

    def test_numa_nodes_are_bound_to(self):
        self.machine("0-7,16-23", "8-15,24-31")
        self.assertEqual(self.mpirun(4), "mpirun --map-by numa --bind-to numa -n 4 P")

    def test_more_ranks_than_processors(self):
        self.machine("0-1", "2-3")
        self.assertEqual(self.mpirun(3), "mpirun --oversubscribe --bind-to none -n 3 P")

    def test_ranks_go_where_their_gpus_are(self):
        self.machine("0-7", "8-15", gpus=(1, 1, 0, 0))
        first, second = "0,1,2,3,4,5,6,7", "8,9,10,11,12,13,14,15"
        self.assertEqual(self.mpirun(4), f"mpirun --bind-to none -n 2 taskset -c {second} P : -n 2 taskset -c {first} P")
        self.assertEqual(self.mpirun(5), f"mpirun --bind-to none -n 2 taskset -c {second} P : -n 2 taskset -c {first} P : -n 1 taskset -c {second} P")

    def test_gpus_that_are_not_visible_do_not_count(self):
        self.machine("0-7", "8-15", gpus=(0, 0, 1, 1))
        os.environ["CUDA_VISIBLE_DEVICES"] = "2,3"
        self.assertEqual(self.launcher.gpu_nodes(), [1, 1])
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.assertEqual(self.launcher.gpu_nodes(), [])

    def test_gpus_of_unknown_place(self):
        self.machine("0-7", "8-15", gpus=(-1, -1))
        self.assertEqual(self.mpirun(2), "mpirun --map-by numa --bind-to numa -n 2 P")
        self.machine("0-7", "8-15", gpus=(0, 1))
        os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-8a1bde56"
        self.assertEqual(self.mpirun(2), "mpirun --map-by numa --bind-to numa -n 2 P")

    def test_rule(self):
        rule, gib = self.launcher.ranks_by_rule, 1 << 30
        self.assertEqual(rule(64, 1000 * gib, 1000 * gib, gib), 16)  # one per four processors
        self.assertEqual(rule(64, 9 * gib, 1000 * gib, gib), 3)  # what the bytes need
        self.assertEqual(rule(64, 1000 * gib, 5 * gib, gib), 5)  # what the memory holds
        self.assertEqual(rule(2, 1000, 0, gib), 1)

    def ranks_for(self, model, *options):
        return self.launcher.ranks_here([PROGRAM], [model, "null:", "--to", "nanotron", "--resume", *options])

    def test_ranks_follow_the_plan(self):
        self.machine("0-31")
        self.assertEqual(self.ranks_for("synthetic:llama3-70b"), 8)
        self.assertEqual(self.ranks_for(str(MODEL)), 1)
        self.assertEqual(self.ranks_for("synthetic:llama3-8b"), 8)
        self.assertEqual(self.ranks_for("synthetic:llama3-8b", "--part", "1/4"), 2)  # 8 GB to read and write
        self.assertEqual(self.ranks_for("synthetic:llama3.2-1b"), 2)  # 5 GB

    def test_refusal_of_the_plan_is_ours(self):
        self.machine("0-31")
        with self.assertRaises(SystemExit) as refused, mock.patch("sys.stderr"):
            self.ranks_for("no/such/checkpoint")
        self.assertEqual(refused.exception.code, 3)

    def slurm(self, **environment):
        os.environ.update({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_CPUS_PER_NODE": "16(x2)", "SLURM_CPUS_ON_NODE": "16", **environment})
        self.assertTrue(self.launcher.in_allocation())
        return " ".join(self.launcher.srun_command(["P"], self.launcher.ranks_of_allocation()))

    def test_allocation_with_tasks(self):
        self.machine("0-15")
        self.assertEqual(self.slurm(SLURM_NTASKS="6", SLURM_CPUS_PER_TASK="3"), "srun --nodes=2 --ntasks=6 --cpus-per-task=3 --mpi=pmix --kill-on-bad-exit=1 P")

    def test_allocation_of_whole_nodes(self):
        self.machine("0-7", "8-15")
        self.assertEqual(self.slurm(), "srun --nodes=2 --ntasks=8 --mpi=pmix --cpu-bind=ldoms --kill-on-bad-exit=1 P")
        self.assertEqual(self.slurm(SLURM_JOB_CPUS_PER_NODE="16,2"), "srun --nodes=2 --ntasks=5 --mpi=pmix --cpu-bind=ldoms --kill-on-bad-exit=1 P")

    def test_allocation_with_gpus(self):
        self.machine("0-7", "8-15", gpus=(1, 0))
        self.assertIn(" --cpu-bind=map_ldom:1,0 ", self.slurm())
        self.assertIn(" --cpu-bind=ldoms ", self.slurm(SLURM_CPUS_ON_NODE="4"))

    def test_allocation_says_otherwise(self):
        self.machine("0-15")
        self.assertNotIn("--mpi", self.slurm(SLURM_MPI_TYPE="pmix_v4"))
        self.assertIn(" --overlap ", self.slurm(SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS="1"))
        with self.assertRaises(SystemExit), mock.patch("sys.stderr"):
            self.slurm(SLURM_STEP_NUM_TASKS="4")


class Sbatch(Case):
    def sbatch(self, *convert, ranks=None, nodes="all* 64 256000 8", bytes_per_node=None):
        """What the line asks for, and what follows the template."""
        self.script("bin/sinfo", f'#!/bin/sh\nprintf "%s\\n" "{nodes}"\n')
        launcher = load_launcher()
        launcher.BYTES_PER_NODE = bytes_per_node or launcher.BYTES_PER_NODE
        with mock.patch.dict(os.environ, {**ENVIRONMENT, "PATH": f"{self.work}/bin:{os.environ['PATH']}"}, clear=True):
            words = launcher.sbatch_command([PROGRAM], list(map(str, convert)), ranks)
        self.assertEqual(words[0], "sbatch")
        template = words.index(str(ROOT / "slurm/convert.sbatch"))
        return dict(word[2:].split("=") for word in words[1:template]), words[template + 1 :]

    def test_small(self):
        asked, rest = self.sbatch(MODEL, "out dir", "--to", "hf")
        self.assertEqual((asked["nodes"], asked["ntasks"], asked["cpus-per-task"], asked["time"]), ("1", "1", "4", "00:20:00"))
        self.assertEqual(rest, [str(MODEL), "out dir", "--to", "hf"])

    def test_large(self):
        convert = ["synthetic:llama3-70b", "null:", "--to", "nanotron", "--tp", "8", "--pp", "4"]
        asked, rest = self.sbatch(*convert, bytes_per_node=100 * 10**9)
        self.assertEqual((asked["nodes"], asked["ntasks"], asked["ntasks-per-node"], asked["cpus-per-task"]), ("3", "48", "16", "4"))
        self.assertEqual(rest, convert)
        # What the program says it needs, and its overhead, for the ranks of a node.
        planned = subprocess.run([PROGRAM, "plan", *convert, "--ranks", "48", "--ranks-per-node", "16", "--json"], capture_output=True, check=True)
        least = 16 * (json.loads(planned.stdout)["memory"]["peak_bytes"] + (200 << 20)) / (1 << 20)
        self.assertRegex(asked["mem"], r"^\d+M$")
        self.assertTrue(least <= int(asked["mem"][:-1]) < least + 256, (asked, least))
        # 282 GB on 3 nodes at 250 MB/s each, and ten minutes.
        self.assertEqual(asked["time"], "00:20:00")
        self.assertEqual(self.sbatch(*convert)[0]["time"], "00:30:00")

    def test_what_the_cluster_has(self):
        asked, _ = self.sbatch("synthetic:llama3-70b", "null:", "--to", "hf", nodes="small 4 8000 100\nbig* 16+ 4000+ 1\nbig* 32 8000 1", bytes_per_node=10**9)
        self.assertEqual((asked["nodes"], asked["ntasks-per-node"]), ("2", "3"))  # 4000 MB hold three ranks

    def test_ranks_asked_for(self):
        asked, _ = self.sbatch(MODEL, "out", "--to", "hf", ranks=20)
        self.assertEqual((asked["nodes"], asked["ntasks"], asked["ntasks-per-node"]), ("2", "20", "16"))

    def test_line_is_printed(self):
        line = self.run_launcher("--sbatch", MODEL, "out dir", "--to", "hf").stdout
        self.assertRegex(line, rf"^sbatch --nodes=1 .* {ROOT}/slurm/convert.sbatch {MODEL} 'out dir' --to hf\n$")


class Running(Case):
    def start(self, *arguments, program=STAND_IN):
        stand_in = self.script("reshard", program)
        self.process = subprocess.Popen([RUN, *map(str, arguments), "a", "b"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**ENVIRONMENT, "RESHARD": str(stand_in)})  # fmt: skip
        self.addCleanup(self.process.kill)

    def stop(self, ranks, number):
        self.start("--ranks", ranks)
        for _ in range(ranks):
            self.assertTrue(self.process.stdout.readline().startswith("ready"))
        start = time.monotonic()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        self.assertLess(time.monotonic() - start, 5, err)
        self.assertEqual(self.process.returncode, 4, out + err)
        return out

    def test_signals_reach_ranks_as_usr1(self):
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            with self.subTest(number.name):
                self.assertEqual(sorted(self.stop(2, number).splitlines()), ["rank 0 got SIGUSR1", "rank 1 got SIGUSR1"])

    def test_signals_reach_a_program_alone(self):
        self.assertEqual(self.stop(1, signal.SIGTERM), "rank None got SIGTERM\n")

    def test_second_ctrl_c_ends_what_does_not_stop(self):
        self.start("--ranks", 2, program=STAND_IN.replace("    sys.exit(4)\n", ""))
        for _ in range(2):
            self.assertTrue(self.process.stdout.readline().startswith("ready"))
        for _ in range(2):
            self.process.send_signal(signal.SIGINT)
            time.sleep(1)
        start = time.monotonic()
        self.process.communicate(timeout=30)
        self.assertLess(time.monotonic() - start, 15)
        self.assertNotEqual(self.process.returncode, 0)

    def test_parts_of_a_line_are_one_job(self):
        """The form that binds ranks to the processors of their GPUs: ranks count on, each part has its processors."""
        number = "f\"rank {os.environ['OMPI_COMM_WORLD_RANK']} of {os.environ['OMPI_COMM_WORLD_SIZE']}\\n\""
        stand_in = self.script("reshard", STAND_IN.replace("time.sleep(60)", f"os.write(1, {number}.encode())"))
        first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
        launcher = load_launcher()
        with mock.patch.object(launcher, "numa_nodes", lambda: {0: [first], 1: [last]}), mock.patch.object(launcher, "gpu_nodes", lambda: [1, 0]):
            with mock.patch.object(launcher.os, "sched_getaffinity", lambda _: set(range(8))):
                command = launcher.mpirun_command([str(stand_in)], 2)
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout
        self.assertEqual(sorted(line for line in out.splitlines() if line.startswith("rank")), ["rank 0 of 2", "rank 1 of 2"])
        self.assertEqual(sorted(re.findall(r"ready (\[.*\])", out)), sorted([f"[{first}]", f"[{last}]"]))

    def test_same_bytes_and_status_on_any_number_of_ranks(self):
        for ranks in (1, 3):
            self.run_launcher("--ranks", ranks, MODEL, self.work / f"out{ranks}", "--to", "hf", "--max-shard-size", "100KB")
        self.run_launcher("--ranks", 3, MODEL, self.work / "out3", "--to", "hf", status=2)
        self.run_launcher("--ranks", 3, self.work / "nowhere", self.work / "out", "--to", "hf", status=3)
        same = subprocess.run(["diff", "-r", self.work / "out1", self.work / "out3"], capture_output=True, text=True, check=False)
        self.assertEqual(same.stdout + same.stderr, "")

    def test_conversion_that_is_told_to_stop_goes_on(self):
        config = self.work / "config.json"
        config.write_text(json.dumps({**json.loads((MODEL / "config.json").read_text()), "hidden_size": 1024, "intermediate_size": 4096, "head_dim": 128}))
        convert = ["--ranks", "2", f"synthetic:{config}", self.work / "out", "--to", "hf", "--max-shard-size", "5MB"]
        process = subprocess.Popen([RUN, *convert], stderr=subprocess.PIPE, text=True,
                                   env={**ENVIRONMENT, "RESHARD": PROGRAM, "RESHARD_IO_THROTTLE": "20MB,20MB"})  # fmt: skip
        self.addCleanup(process.kill)
        end = time.monotonic() + 60
        while sum(path.stat().st_blocks * 512 for path in self.work.glob("out.partial/*")) < 60 * 10**6:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        self.assertIn("interrupted by SIGUSR1", process.communicate(timeout=30)[1])
        self.assertEqual(process.returncode, 4)
        self.assertIn("are there from before", self.run_launcher(*convert, "--resume").stderr)
        subprocess.run([PROGRAM, "convert", f"synthetic:{config}", self.work / "alone", *convert[4:]], check=True, capture_output=True)
        subprocess.run(["diff", "-r", self.work / "out", self.work / "alone"], check=True)

    def test_program_that_is_not_there(self):
        refused = self.run_launcher("--ranks", 1, "a", "b", status=127, RESHARD="/no/such/program")
        self.assertIn("/no/such/program: No such file", refused.stderr)
        refused = self.run_launcher("--ranks", 2, "a", "b", status=127, PATH="/no/such/folder")
        self.assertIn("mpirun: No such file", refused.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
