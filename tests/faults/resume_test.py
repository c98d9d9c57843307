#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Conversions that stop in good order, meet errors, find something changed or somebody else at work: what --resume and
--part do then.

resume_test.py [Class[.test] ...]: RESHARD_PROGRAM names the program.
"""

import json
import os
import re
import resource
import shutil
import signal
import time
import unittest

import runs

HF, NANOTRON, HDF5, BOOK = runs.TARGETS
OTHER_HF = runs.Target("hf", ["--to", "hf", "--max-shard-size", "100KB"])
THROTTLE = "RESHARD_IO_THROTTLE"
SLOW = {THROTTLE: "0,50MB"}  # the large model takes four seconds
STOP_S = 5


class Case(runs.Case):
    def setUp(self):
        self.work.clear()

    def convert(self, target, *options, status=0, src=None, **keywords):
        """A conversion of the large model that ends with this status."""
        job = self.work.convert(src or self.work.large, target, *options, **keywords)
        self.assertEqual(job.wait(), status, f"{job}\n{job.text()}")
        return job

    def kill(self, target, point, *options, src=None, ranks=1):
        """Leaves a conversion that died at the point, with spans that are durable."""
        job = self.work.convert(src or self.work.large, target, *options, ranks=ranks, environment={"RESHARD_IO_KILL": point})
        job.wait()
        self.assertTrue(job.was_killed(), job.text())

    def start(self, target, *options, ranks=1, src=None, **keywords):
        """A slow conversion, when it has written something."""
        job = self.work.convert(src or self.work.large, target, *options, ranks=ranks, **{"environment": SLOW, **keywords})
        self.addCleanup(lambda: runs.send(job.living(), signal.SIGKILL))
        self.work.wait_for(lambda: sum(map(runs.bytes_written, job.rank_processes())) > 4 * runs.SPAN, job)
        self.assertIsNone(job.process.poll(), job.text())
        return job

    def resume(self, target, *options, src=None, ranks=1):
        """The conversion is finished, as an undisturbed one would be, and nothing durable is made again."""
        reference = self.reference(target, src)
        durable = self.work.durable()
        report = self.convert(target, "--resume", *options, src=src, ranks=ranks).report()
        self.assertEqual(report["outcome"], "committed")
        self.assert_done(reference)
        if reference.sizes:
            self.assertEqual(report["resumed_bytes"], reference.bytes_of(durable))
        written = sum(rank["bytes_written"] for rank in report["stream"]["ranks"])
        self.assertEqual(report["resumed_bytes"] + written, reference.num_bytes)

    def reference(self, target, src=None):
        """Made aside, if it is not there yet."""
        aside = self.work.folder / "aside"
        self.work.dst.parent.rename(aside)
        self.work.dst.parent.mkdir()
        reference = self.work.reference(src or self.work.large, target)
        self.work.dst.parent.rmdir()
        aside.rename(self.work.dst.parent)
        return reference

    def assert_done(self, reference):
        self.assertEqual(runs.content(self.work.dst), reference.files)
        self.assertEqual(sorted(path.name for path in self.work.dst.parent.iterdir()), ["out", "out.report.json"])

    def refused(self, pattern, target, *options, status=2, **keywords):
        """The conversion ends with one line that says why, and touches nothing."""
        before = self.snapshot()
        self.turned_away(pattern, target, *options, status=status, **keywords)
        self.assertEqual(self.snapshot(), before)

    def snapshot(self):
        """All files but the records of parts."""
        return {name: value for name, value in runs.content(self.work.dst.parent).items() if not re.search(r"/part-.*\.json$", name)}

    def turned_away(self, pattern, target, *options, status=2, **keywords):
        """As refused, while others are at work."""
        text = self.convert(target, *options, status=status, **keywords).text()
        errors = [line for line in text.splitlines() if line.startswith("reshard: error: ")]
        self.assertEqual(len(errors), 1, text)
        self.assertRegex(errors[0], pattern)

    def records(self):
        return {path.name: json.loads(path.read_text()) for path in self.work.journal().glob("part-*.json")}


class Stopping(Case):
    """Signals end a conversion in good order: soon, with status 4, saying so, with what is whole made durable."""

    def stop(self, number, target, ranks=1, options=()):
        job = self.start(target, *options, ranks=ranks)
        start = time.monotonic()
        job.process.send_signal(number)
        status = job.wait()
        self.assertLess(time.monotonic() - start, STOP_S)
        self.assertEqual(status, 4, job.text())
        self.assertRegex(job.text(), f"interrupted by {signal.Signals(number).name}; .*--resume")
        self.assertFalse(self.work.dst.exists())
        self.assertGreater(len(self.work.durable()), 0)
        return job

    def test_alone(self):
        for number, target in ((signal.SIGTERM, HF), (signal.SIGUSR1, NANOTRON), (signal.SIGINT, HDF5)):
            with self.subTest(number.name):
                self.work.clear()
                self.stop(number, target)
                (record,) = self.records().values()
                self.assertEqual(record["state"], "stopped")
                self.assertIn(number.name, record["error"])
                self.resume(target)

    def test_mpirun(self):
        self.stop(signal.SIGUSR1, BOOK, ranks=2)
        self.assertEqual([record["state"] for record in self.records().values()], ["stopped"])
        self.resume(BOOK, ranks=3)

    def test_part(self):
        """The others go on."""
        other = self.start(HF, "--part", "2/2")
        self.stop(signal.SIGUSR1, HF, options=["--part", "1/2"])
        self.assertEqual(other.wait(), 0, other.text())
        self.assertEqual([record["state"] for _, record in sorted(self.records().items())], ["stopped", "finished"])
        self.assertEqual(self.convert(HF, "--part", "1/2").report()["outcome"], "committed")
        self.assert_done(self.reference(HF))

    def test_before_anything_is_written(self):
        job = self.work.convert(self.work.large, HF, environment=SLOW)
        self.work.wait_for(self.work.journal().exists, job)
        job.process.send_signal(signal.SIGTERM)
        self.assertEqual(job.wait(), 4, job.text())
        self.resume(HF)


class Journals(Case):
    """What a journal does not say for certain is done again."""

    def damage(self, change):
        """Changes the text of the last journal. At least one span is no longer believed."""
        before = self.work.durable()
        path = sorted(self.work.journal().glob("*.log"))[-1]
        path.write_bytes(change(path.read_bytes()))
        self.assertLess(len(self.work.durable()), len(before))

    def test_torn_last_line(self):
        for cut in (1, 2, 30):
            with self.subTest(cut=cut):
                self.work.clear()
                self.kill(HF, "segments@1")
                self.damage(lambda text: text[:-cut])
                self.resume(HF)

    def test_flipped_byte(self):
        for target in runs.TARGETS:
            with self.subTest(target=target.name):
                self.work.clear()
                self.kill(target, "record@1" if not target.one_file else "mark@1", ranks=2)
                if target.one_file:
                    (self.work.journal() / "commit").unlink()

                def flip(text):
                    lines = text.splitlines(keepends=True)
                    middle = len(lines) // 2
                    lines[middle] = lines[middle][:-3] + bytes([lines[middle][-3] ^ 1]) + lines[middle][-2:]
                    return b"".join(lines)

                self.damage(flip)
                self.resume(target)

    def test_damaged_head(self):
        self.kill(HF, "synced@2")
        self.damage(lambda text: text.replace(b"journal", b"Journal", 1))
        self.resume(HF)

    def test_journal_of_another_plan(self):
        self.kill(HF, "synced@2")
        path = next(self.work.journal().glob("*.log"))
        plan = re.search(rb'"plan":"([0-9a-f]+)"', path.read_bytes())[1]
        other = re.sub(rb".", b"0", plan)

        def rewrite(text):
            head, rest = text.split(b"\n", 1)
            body = head.split(b" ", 2)[2].replace(plan, other)
            return b"%d %08x %s\n" % (len(body), runs.zlib.crc32(body), body) + rest

        path.write_bytes(rewrite(path.read_bytes()))
        report = self.convert(HF, "--resume").report()
        self.assertEqual(report["resumed_bytes"], 0)
        self.assert_done(self.reference(HF))

    def test_missing_files(self):
        self.kill(HF, "segments@1")
        file = sorted(self.work.partial().glob("*.safetensors"))[1]
        saved = file.read_bytes()
        file.unlink()
        self.refused(f"{file}: is missing or has another size.*remove {self.work.journal()} and {self.work.partial()}", HF, "--resume")
        self.assertEqual([record["state"] for record in self.records().values()], ["failed"])
        file.write_bytes(saved[:-1])
        self.refused(f"{file}: is missing or has another size", HF, "--resume")
        file.write_bytes(saved)
        self.resume(HF)

    def test_missing_partial(self):
        self.kill(HDF5, "synced@2")
        self.work.partial().unlink()
        self.refused(f"{self.work.partial()}: is missing or has another size", HDF5, "--resume")


class Changes(Case):
    """A conversion that is resumed is the one that was begun."""

    def copied(self):
        src = self.work.folder / "source"
        runs.remove(src)
        shutil.copytree(self.work.small, src)
        return src

    def test_changed_source(self):
        src = self.copied()
        self.kill(HF, "ticket@1", src=src)
        file = src / "model.safetensors"
        before = file.stat()
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
        self.refused(f"{self.work.journal()}: was begun from other source files", HF, "--resume", src=src)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.resume(HF, src=src)

    def test_vanished_source(self):
        src = self.copied()
        self.kill(HF, "ticket@1", src=src)
        away = src.with_name("away")
        src.rename(away)
        self.refused(f"{src}: ", HF, "--resume", src=src, status=3)
        away.rename(src)
        self.resume(HF, src=src)

    def test_other_options(self):
        self.kill(HF, "ticket@1", src=self.work.small)
        for target, options in ((HF, ["--dtype", "fp32"]), (HF, ["--exclude", "lm_head.weight"]), (OTHER_HF, []), (NANOTRON, [])):
            for joining in (["--resume"], ["--part", "1/2"]):
                with self.subTest(target=target.options, options=options + joining):
                    self.refused(f"{self.work.journal()}: is work on another conversion", target, *options, *joining, src=self.work.small)
        self.resume(HF, src=self.work.small)

    def test_without_overwrite(self):
        """What would not be replaced in the end is refused in the beginning."""
        self.work.dst.mkdir()
        (self.work.dst / "old").write_text("old")
        self.kill(HF, "synced@1", "--overwrite")
        for joining in (["--resume"], ["--part", "1/2"]):
            self.refused("exists; say --overwrite", HF, *joining)
        self.resume(HF, "--overwrite")

    def test_done(self):
        src = self.copied()
        self.convert(HF, src=src)
        before = self.snapshot()
        for options in (["--resume"], ["--part", "2/3"], ["--resume", "--overwrite"]):
            with self.subTest(options):
                self.assertEqual(self.convert(HF, *options, src=src).report()["outcome"], "present")
                self.assertEqual(self.snapshot(), before)
        self.assertIn("holds this conversion already", self.work.done(runs.Job(["convert", src, self.work.dst, *HF.options, "--part", "1/3"])).text())
        self.refused("exists; say --overwrite", HF, src=src)
        self.refused("exists; say --overwrite", HF, "--dtype", "fp32", "--resume", src=src)

    def test_dry_run(self):
        """Says what the run itself would: go on, refuse, find it done. Touches nothing."""
        src = self.work.small
        self.kill(HF, "ticket@1", src=src)
        before = self.snapshot()
        self.convert(HF, "--resume", "--dry-run", src=src)
        self.assertEqual(self.snapshot(), before)
        self.refused(f"{self.work.journal()}: is work on another conversion", OTHER_HF, "--resume", "--dry-run", src=src)
        self.resume(HF, src=src)
        before = self.snapshot()
        for joining in (["--resume"], ["--part", "1/2"]):
            self.convert(HF, *joining, "--dry-run", src=src)
            self.assertEqual(self.snapshot(), before)
        self.refused("exists; say --overwrite", HF, "--dry-run", src=src)

    def test_done_from_a_source_that_changed(self):
        """Other values, same headers: what is at DST is not their conversion."""
        src = self.copied()
        self.convert(HF, src=src)
        file = src / "model.safetensors"
        values = bytearray(file.read_bytes())
        values[-1] ^= 1
        file.write_bytes(values)
        self.refused("exists; say --overwrite", HF, "--resume", src=src)
        self.convert(HF, "--resume", "--overwrite", src=src)
        self.assertEqual(runs.content(self.work.dst)["model.safetensors"], runs.content(src)["model.safetensors"])

    def test_done_from_another_source(self):
        """Same name, same headers, another place."""
        src, other = self.copied(), self.work.folder / "other" / "source"
        self.convert(HF, src=src)
        shutil.copytree(src, other, dirs_exist_ok=True)
        values = bytearray((src / "model.safetensors").read_bytes())
        values[-1] ^= 1
        (other / "model.safetensors").write_bytes(values)
        self.refused("exists; say --overwrite", HF, "--resume", src=other)


class Others(Case):
    """Who is at work is not disturbed."""

    def test_a_living_conversion(self):
        job = self.start(HF)
        for options in (["--resume"], [], ["--overwrite"], ["--part", "1/2"]):
            with self.subTest(options):
                self.turned_away(f"{self.work.dst}: is being written by process {job.process.pid} on ", HF, *options)
        self.assertEqual(job.wait(), 0, job.text())
        self.assert_done(self.reference(HF))

    def test_the_same_part_twice(self):
        job = self.start(HF, "--part", "2/3")
        job.process.send_signal(signal.SIGSTOP)  # however slow the others are, it is still there
        self.turned_away(f"{self.work.dst}: part 2/3 is being written by process {job.process.pid} on ", HF, "--part", "2/3")
        self.turned_away(f"{self.work.dst}: part 2/3 is being written by process {job.process.pid} on ", HF, "--part", "1/2")
        self.turned_away(f"{self.work.dst}: part 2/3 is being written by process {job.process.pid} on ", HF, "--resume")
        self.turned_away("is work on another conversion", OTHER_HF, "--part", "1/3")
        for part in (1, 3):
            self.assertEqual(self.convert(HF, "--part", f"{part}/3").report()["outcome"], "part")
        job.process.send_signal(signal.SIGCONT)
        self.assertEqual(job.wait(), 0, job.text())
        self.assertEqual(job.report()["outcome"], "committed")
        self.assert_done(self.reference(HF))

    def test_asleep_and_taken_over(self):
        """A run that another host took for dead finds its place taken when it wakes up, and leaves the output alone."""
        for options in ([], ["--overwrite"]):
            with self.subTest(options):
                self.work.clear()
                if options:
                    self.convert(HF, src=self.work.small)
                job = self.start(HF, "--resume", *options)
                job.process.send_signal(signal.SIGSTOP)
                (record,) = self.work.dst.parent.glob("out.journal/part-*.json")
                record.write_text(re.sub(r'"host": "', '"host": "other-', record.read_text()))
                self.assertEqual(self.convert(HF, "--resume", *options).report()["outcome"], "committed")
                job.process.send_signal(signal.SIGCONT)
                self.assertEqual(job.wait(), 0, job.text())
                self.assertEqual(job.report()["outcome"], "present")
                self.assert_done(self.reference(HF))

    def test_the_same_part_twice_at_once(self):
        """One goes on, whoever it is."""
        for _ in range(5):
            self.work.clear()
            jobs = [self.work.convert(self.work.large, HF, "--part", "1/2", environment=SLOW) for _ in range(3)]
            while sum(job.process.poll() is None for job in jobs) > 1:
                time.sleep(0.01)
            losers = [job for job in jobs if job.process.poll() is not None]
            self.assertEqual([job.wait() for job in losers], [2, 2], [job.text() for job in losers])
            (winner,) = set(jobs) - set(losers)
            winner.process.send_signal(signal.SIGTERM)
            self.assertEqual(winner.wait(), 4, winner.text())
        self.resume(HF)

    def test_any_order(self):
        """One after the other, the last first; all are needed, and each may be repeated."""
        reference = self.reference(NANOTRON)
        for part in (4, 4, 2, 3, 2):
            self.assertEqual(self.convert(NANOTRON, "--part", f"{part}/4").report()["outcome"], "part")
            self.assertFalse(self.work.dst.exists())
        self.assertEqual(self.convert(NANOTRON, "--part", "1/4", ranks=2).report()["outcome"], "committed")
        self.assert_done(reference)

    def test_all_parts_again_at_once(self):
        """After a crash in the end, while one finishes what was left, the others find nothing to do, and nothing wrong."""
        reference = self.reference(HF, self.work.small)
        for point in ("claim", "ticket", "segments", "record", "mark", "replace", "rename", "drop"):
            for tries in range(4):
                with self.subTest(point=point, tries=tries):
                    self.work.clear()
                    for environment in ({"RESHARD_IO_KILL": f"{point}@1"}, {}):
                        jobs = [self.work.convert(self.work.small, HF, "--part", f"{part}/4", environment=environment) for part in range(1, 5)]
                        statuses = [job.wait() for job in jobs]
                        wrong = "; ".join(job.text() for job, status in zip(jobs, statuses) if status not in (0, runs.KILLED))
                        self.assertEqual(wrong, "")
                    self.assertNotIn(runs.KILLED, statuses)
                    self.assertEqual(runs.content(self.work.dst), reference.files)
                    left = {path.name for path in self.work.dst.parent.iterdir()} & {"out.partial", "out.journal", "out.old"}
                    self.assertEqual(left, set())

    def test_more_parts_than_spans(self):
        parts = [self.work.convert(self.work.small, HF, "--part", f"{part}/7") for part in range(1, 8)]
        self.assertEqual([job.wait() for job in parts], [0] * 7, [job.text() for job in parts])
        self.assert_done(self.reference(HF, self.work.small))


class Errors(Case):
    """What goes wrong while the output grows leaves it resumable."""

    def fails(self, pattern, target, *options, ranks=1, status=4, fault="", **keywords):
        environment = {THROTTLE: "0,400MB", "RESHARD_IO_FAULT": fault}
        job = self.convert(target, *options, status=status, ranks=ranks, environment=environment, **keywords)
        self.assertRegex(job.text(), pattern)
        self.assertFalse(self.work.dst.exists())
        return job

    def test_full_disk(self):
        for target, ranks in ((HF, 1), (BOOK, 2), (NANOTRON, 1)):
            with self.subTest(target=target.name):
                self.work.clear()
                self.fails("No space left on device; make room or choose another target, then run again", target, ranks=ranks, fault="write:ENOSPC@70MB")
                self.resume(target)

    def test_full_again_and_again(self):
        for _ in range(3):
            self.fails("No space left on device", HDF5, "--resume", fault="write:ENOSPC@50MB")
        self.resume(HDF5)

    def test_limit_on_file_sizes(self):
        limit = (20 << 20, resource.RLIM_INFINITY)
        self.fails("File too large", HF, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        self.resume(HF)

    def test_unreadable_source(self):
        """The next time it may be read."""
        self.fails("Input/output error", HF, status=3, fault="read:EIO@170MB")
        self.assertEqual([record["state"] for record in self.records().values()], ["failed"])
        self.assertGreater(len(self.work.durable()), 0)
        self.resume(HF)

    def test_unreadable_by_one_rank(self):
        """When the other has written all that it was to write."""
        self.fails("Input/output error", HF, ranks=2, status=3, last_rank={THROTTLE: "0,50MB", "RESHARD_IO_FAULT": "read:EIO@80MB"})
        self.assertGreater(len(self.work.durable()), 6)
        self.resume(HF)

    def test_unreadable_source_of_a_part(self):
        self.fails("Input/output error", HF, "--part", "2/2", status=3, fault="read:EIO@70MB")
        self.assertEqual([record["state"] for record in self.records().values()], ["failed"])
        self.assertGreater(len(self.work.durable()), 0)
        self.assertEqual(self.convert(HF, "--part", "1/2").report()["outcome"], "part")
        self.assertEqual(self.convert(HF, "--part", "2/2").report()["outcome"], "committed")
        self.assert_done(self.reference(HF))


if __name__ == "__main__":
    unittest.main(verbosity=2)
