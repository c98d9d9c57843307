#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills conversions at named points and at random moments, resumes them, and compares every byte.

kill_test.py [--kills N] [--seed N] [Class[.test] ...]: RESHARD_PROGRAM names the program. Points are the calls of
io::pass, found in the sources; each is hit at least five times, and random kills make up the rest of N. Prints what died
where.
"""

import argparse
import collections
import random
import re
import signal
import sys
import time
import unittest

import runs

HITS = 5
POINT = re.compile(r'\bio::pass\("([a-z]+)"\)')

# How often a point may be passed before it kills. Those of the stream need a model of many spans.
STREAM = {"written": 8, "synced": 2, "journal": 2}
STEPS = {"claim", "ticket", "segments", "sidecars", "record", "mark", "replace", "rename", "drop"}

# A bit above half a second of stream for the large model, so that random moments hit it.
SLOW = {"RESHARD_IO_THROTTLE": "0,350MB"}
STREAM_S = 0.7
# What a node may have written and not made durable.
IN_FLIGHT = 256 << 20

OPTIONS = argparse.Namespace(kills=130, seed=None)

Mode = collections.namedtuple("Mode", "ranks parts")
MODES = [Mode(1, 1), Mode(2, 1), Mode(1, 2), Mode(3, 1), Mode(1, 3), Mode(2, 2)]


def points():
    """The names in the sources, and where they are."""
    found = {}
    for path in sorted((runs.ROOT / "src").rglob("*.cpp")):
        for name in POINT.findall(path.read_text()):
            found[name] = str(path.relative_to(runs.ROOT))
    return found


class Toll:
    """Kills by point or moment, and by what was killed."""

    COLUMNS = ("alone", "mpirun -n 2", "mpirun -n 3", "part", "part with mpirun")

    def __init__(self):
        self.kills = collections.Counter()

    def note(self, where, mode):
        column = ("part with mpirun" if mode.ranks > 1 else "part") if mode.parts > 1 else f"mpirun -n {mode.ranks}" if mode.ranks > 1 else "alone"
        self.kills[where, column] += 1

    def total(self, where=None):
        return sum(count for (place, _), count in self.kills.items() if where in (None, place))

    def table(self):
        lines = [f"{'killed at':<12}" + "".join(f"{column:>18}" for column in self.COLUMNS) + f"{'all':>6}"]
        for where in dict.fromkeys(place for place, _ in self.kills):
            lines.append(f"{where:<12}" + "".join(f"{self.kills[where, column]:>18}" for column in self.COLUMNS) + f"{self.total(where):>6}")
        lines.append(f"{'all':<12}" + "".join(f"{sum(n for (_, c), n in self.kills.items() if c == column):>18}" for column in self.COLUMNS)
                     + f"{self.total():>6}")  # fmt: skip
        return "\n".join(lines)


TOLL = Toll()


class Case(runs.Case):
    def setUp(self):
        self.random = random.Random(f"{OPTIONS.seed} {self.id()}")


class Story:
    """One output: what kills it again and again, and who resumes it."""

    def __init__(self, case, src, target, overwrite):
        self.case, self.work, self.random = case, case.work, case.random
        self.src, self.target, self.overwrite = src, target, overwrite
        self.reference = self.work.reference(src, target)
        self.work.clear()
        self.steps, self.durable, self.old = [f"{target.name}{' --overwrite' if overwrite else ''}"], set(), None
        if overwrite:
            path = self.work.dst if target.one_file else self.work.dst / "weights.bin"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"what was there before\n")
            self.old = runs.content(self.work.dst)

    def start(self, mode, resume, environment=None):
        options = [*(["--overwrite"] if self.overwrite else []), *(["--resume"] if resume else [])]
        jobs = []
        for part in range(mode.parts):
            asked = ["--part", f"{part + 1}/{mode.parts}"] if mode.parts > 1 else []
            jobs.append(self.work.convert(self.src, self.target, *options, *asked, ranks=mode.ranks, environment=environment))
        return jobs

    def attempt(self, mode, where, kill=None, environment=None):
        """Jobs that are killed, if all goes as it should. Returns whether any was."""
        self.steps.append(f"{mode.parts} parts of {mode.ranks} ranks, killed at {where}")
        jobs = self.start(mode, resume=len(self.steps) > 2, environment=environment)
        if kill:
            kill(jobs)
        any_killed = False
        for job in jobs:
            status = job.wait()
            if job.was_killed():
                TOLL.note(where, mode)
                any_killed = True
            else:
                self.expect(status == 0, f"{job}: exit status {status}\n{job.text()}")
        self.look()
        return any_killed

    def kill_at(self, point, count, mode):
        return self.attempt(mode, point, environment={"RESHARD_IO_KILL": f"{point}@{count}"})

    def kill_some_time(self, mode):
        def kill(jobs):
            # From the claim on, mostly: before it there is nothing to spoil.
            if self.random.random() < 0.85:
                self.work.wait_for(self.work.journal().exists, jobs[0])
            victims = jobs if self.random.random() < 0.5 else self.random.sample(jobs, self.random.randint(1, len(jobs)))
            together = self.random.random() < 0.5
            for job in victims:
                if not together or job is victims[0]:
                    time.sleep(self.random.uniform(0, STREAM_S / (1 if together else len(victims))))
                living = job.living()
                if job.ranks > 1 and living:
                    living = self.random.choice([living, living[:1], [self.random.choice(job.rank_processes() or living)]])
                runs.send(living, signal.SIGKILL)

        return self.attempt(mode, "random", kill, SLOW)

    def look(self):
        """Nothing looks like the output that is not the output; nothing durable is lost or done twice."""
        work = self.work
        there = runs.content(work.dst)
        if there is None:
            lost = self.old and not (work.marked() and runs.content(work.beside(".old")) == self.old)
            self.expect(not lost, "the older output is gone, and the new one is not there")
        else:
            self.expect(there in (self.old, self.reference.files), f"DST is neither the older output nor the new one: {sorted(there)}")
        if there == self.reference.files or not work.journal().exists():
            return
        spans = [span for log in work.logs().values() for span in log]
        self.expect(len(spans) == len(set(spans)), f"spans were made twice: {work.logs()}")
        self.expect(self.durable <= set(spans), f"durable spans were forgotten: {sorted(self.durable - set(spans))}")
        self.durable = set(spans)

    def finish(self, mode, resume=True):
        """The conversion is done by new jobs: same bytes, nothing left over, nothing durable made again."""
        work = self.work
        parts = [path for path in work.journal().glob("part-*.json") if not path.name.endswith("-of-00001.json")]
        if not resume and parts and not work.marked():
            # What parts have done is not thrown away unasked.
            (job,) = self.start(mode, False)
            self.expect(job.wait() == 2 and "parts of it are done" in job.text(), job.text())
            resume = True
        before = set() if not resume or work.marked() else work.durable()
        marked = work.marked()
        self.steps.append(f"{mode.parts} parts of {mode.ranks} ranks{'' if resume else ', not resumed'}")
        jobs = self.start(mode, resume)
        statuses = [job.wait() for job in jobs]
        if not resume and not self.overwrite and statuses == [2]:
            self.expect("exists; say --overwrite" in jobs[0].text(), jobs[0].text())
        else:
            self.expect(not any(statuses), "; ".join(f"{job}: exit status {status}\n{job.text()}" for job, status in zip(jobs, statuses) if status))
            if resume:
                self.count([job.report() for job in jobs], before, marked)
        self.expect(runs.content(work.dst) == self.reference.files, "the output differs from an undisturbed one's")
        left = sorted(path.name for path in work.dst.parent.iterdir())
        self.expect(not {"out.partial", "out.journal", "out.old"} & set(left), f"left over: {left}")

    def count(self, reports, before, marked):
        """Bytes that the last jobs wrote: all but what was durable."""
        written = sum(rank["bytes_written"] for report in reports for rank in report["stream"]["ranks"])
        resumed = sum(report["resumed_bytes"] for report in reports)
        total = self.reference.num_bytes
        if any(report["outcome"] == "present" for report in reports):
            self.expect(not marked or written == 0, f"{written} bytes were written though all were there")
        else:
            self.expect(written + resumed == total, f"{written} bytes written, {resumed} from before: not {total}")
        durable = self.reference.bytes_of(before)
        if durable is not None:
            self.expect(written <= total - durable, f"{written} bytes written, though {durable} of {total} were durable")
            self.expect(resumed <= durable, f"{resumed} bytes taken from before, though only {durable} were durable")

    def expect(self, condition, message):
        if not condition:
            self.case.fail(f"seed {OPTIONS.seed}: {'; '.join(self.steps)}: {message}")


class Points(Case):
    def test_every_point(self):
        found = points()
        self.assertEqual(set(found), STEPS | set(STREAM), f"points of the sources without a test, or gone: {found}")
        for number, point in enumerate(found):
            hits = tries = 0
            while hits < HITS:
                tries += 1
                self.assertLess(tries, 4 * HITS, f"{point}: hit only {hits} times")
                hits += self.kill(point, number, tries)
            self.assertGreaterEqual(TOLL.total(point), HITS)

    def kill(self, point, number, tries):
        target = runs.TARGETS[(number + tries) % len(runs.TARGETS)]
        story = Story(self, self.work.large if point in STREAM else self.work.small, target, overwrite=(number + tries // 2) % 2 == 0)
        with self.subTest(point=point, target=target.name):
            hit = story.kill_at(point, self.random.randint(1, STREAM.get(point, 1)), MODES[tries % len(MODES)])
            if hit and self.random.random() < 0.5:
                late = self.random.choice(sorted(STEPS))
                story.kill_at(late, 1, self.random.choice(MODES))
            resume = self.random.random() < 0.8
            story.finish(self.random.choice(MODES) if resume else MODES[self.random.randrange(2)], resume)
            return hit
        return False


class Random(Case):
    def test_random_moments(self):
        stories = 0
        while TOLL.total() < OPTIONS.kills or stories < 5:
            stories += 1
            self.assertLess(stories, 20 + OPTIONS.kills, "conversions end before they are killed")
            target = self.random.choice(runs.TARGETS)
            story = Story(self, self.work.large, target, overwrite=self.random.random() < 0.5)
            with self.subTest(story=stories, target=target.name):
                for _ in range(self.random.randint(1, 4)):
                    if not story.kill_some_time(self.random.choice(MODES)):
                        break
                story.finish(self.random.choice(MODES))

    def test_little_is_in_flight(self):
        """At any moment what is written and not durable is bounded, so that little is redone."""
        model = self.work.make_model("long", layers=30)
        for mode in (Mode(1, 1), Mode(2, 1)):
            with self.subTest(mode=mode):
                story = Story(self, model, runs.TARGETS[0], overwrite=False)
                (job,) = story.start(mode, resume=False)
                self.work.wait_for(self.work.journal().exists, job)
                most = samples = 0
                while job.process.poll() is None:
                    time.sleep(self.random.uniform(0, 0.1))
                    ranks = job.rank_processes()
                    runs.send(ranks, signal.SIGSTOP)
                    durable = self.work.durable()
                    if self.work.journal().exists():
                        most = max(most, sum(map(runs.bytes_written, ranks)) - story.reference.bytes_of(durable))
                        samples += 1
                    runs.send(ranks, signal.SIGCONT)
                self.assertEqual(job.wait(), 0, job.text())
                print(f"{mode}: {most >> 20} MiB in flight at most of {story.reference.num_bytes >> 20}, {samples} samples")
                self.assertLessEqual(most, IN_FLIGHT)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=OPTIONS.kills, help="in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the random choices")
    parser.add_argument("tests", nargs="*")
    parser.parse_args(namespace=OPTIONS)
    print(f"seed {OPTIONS.seed}", flush=True)
    program = unittest.main(argv=[sys.argv[0], *OPTIONS.tests], exit=False, verbosity=2)
    print(TOLL.table())
    return 0 if program.result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
