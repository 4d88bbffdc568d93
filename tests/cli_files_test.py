#!/usr/bin/env python3
"""What the command line does to files, pipes, devices, shells and other processes that are not its own."""

import csv
import os
import pathlib
import signal
import sqlite3
import stat
import subprocess
import threading
import time

import cli_support
from cli_support import LAYER, Cli, npy

RECORD = (pathlib.Path(__file__).parent / "fuzz/corpus/tune_records/one").read_text()
TARGET = "sse41"


class Outputs(Cli):
    def setUp(self):
        super().setUp()
        self.record = self.file("one.jsonl", RECORD)

    def export(self, path, **options):
        return self.run_tool("tune", self.record, "--csv", path, cwd=self.dir, **options)

    def test_links_stay_and_lead_to_the_new_file(self):
        (self.dir / "there").mkdir()
        (self.dir / "there/real.csv").write_text("old")
        (self.dir / "first.csv").symlink_to("second.csv")
        (self.dir / "second.csv").symlink_to("there/real.csv")
        (self.dir / "dangling.csv").symlink_to("there/new.csv")
        for name, real in (("first.csv", "there/real.csv"), ("dangling.csv", "there/new.csv")):
            done = self.export(name)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue((self.dir / name).is_symlink())
            self.assertTrue((self.dir / real).read_text().startswith("record,"))
        (self.dir / "loop.csv").symlink_to("loop.csv")
        self.refuse(["tune", self.record, "--csv", "loop.csv"], "loop.csv", code=3, cwd=self.dir)
        self.assertEqual(sorted(p.name for p in (self.dir / "there").iterdir()), ["new.csv", "real.csv"])

    def test_devices_and_pipes_take_bytes(self):
        done = self.export("/dev/null")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))
        self.refuse(["tune", self.record, "--csv", "/dev/full"], "/dev/full", "No space left", code=3)
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/full").st_mode))
        os.mkfifo(self.dir / "pipe")
        read = []
        reader = threading.Thread(target=lambda: read.append((self.dir / "pipe").read_text()))
        reader.start()
        done = self.export("pipe")
        reader.join()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(read[0].startswith("record,"))
        self.assertTrue((self.dir / "pipe").is_fifo())
        # Standard output by its name, whatever it is.
        self.assertIn("record,", self.export("/dev/stdout").stdout)
        with open(self.dir / "log", "a") as log:
            log.write("before\n")
            log.flush()
            subprocess.run([cli_support.QCONVC, "tune", self.record, "--csv", "/dev/stdout"], stdout=log, check=True)
        self.assertTrue((self.dir / "log").read_text().startswith("before\nrecord,"))

    def test_published_files_follow_links(self):
        layers = self.file("net.json", LAYER)
        (self.dir / "out").mkdir()
        (self.dir / "elsewhere.json").write_text("old")
        (self.dir / "out/manifest.json").symlink_to("../elsewhere.json")
        done = self.run_tool("compile", layers, "-t", TARGET, "-o", self.dir / "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((self.dir / "out/manifest.json").is_symlink())
        self.assertIn("layers", (self.dir / "elsewhere.json").read_text())

    def test_pipes_are_no_records(self):
        os.mkfifo(self.dir / "pipe")
        self.file("net.json", LAYER | {"width": 64})
        self.refuse(["tune", "net.json", "-t", TARGET, "--records", "pipe"], "pipe", "ordinary file", code=3, cwd=self.dir)
        process = subprocess.Popen([cli_support.QCONVC, "tune", "pipe", "--csv", "all.csv"], cwd=self.dir,
                                   stderr=subprocess.PIPE)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        self.assertIn(b"interrupted", process.communicate(timeout=60)[1])

    def test_spreadsheets_take_no_cell_for_a_formula(self):
        self.file("bad.jsonl", RECORD.replace('"name":"c","layer"', '"name":"=cmd|\'/c calc\'!A1","layer"'))
        done = self.run_tool("tune", "bad.jsonl", "--csv", "bad.csv", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.dir / "bad.csv", newline="") as file:
            self.assertEqual(next(csv.DictReader(file))["layer"], "'=cmd|'/c calc'!A1")

    def test_a_merge_that_was_killed_is_taken_up(self):
        # The journal of a transaction under way: SQLite plays it back. Without one there may be no header yet.
        self.file("new.db", b"")
        done = self.run_tool("tune", "--merge", "new.db", self.record, cwd=self.dir)
        self.assertIn("1 new", done.stdout, done.stderr)
        script = ("import os, sqlite3; d = sqlite3.connect('new.db', isolation_level=None);"
                  "d.execute('PRAGMA cache_size = 1'); d.execute('BEGIN');"
                  "d.execute('CREATE TABLE waste (x)');"
                  "d.executemany('INSERT INTO waste VALUES (?)', [('x' * 4000,)] * 200); os._exit(1)")
        subprocess.run(["python3", "-c", script], cwd=self.dir)
        self.assertTrue((self.dir / "new.db-journal").exists())
        done = self.run_tool("tune", "new.db", "--csv", "again.csv", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len((self.dir / "again.csv").read_text().splitlines()), 2)
        self.assertEqual(sqlite3.connect(self.dir / "new.db").execute("SELECT COUNT(*) FROM records").fetchone(), (1,))


class Shells(Cli):
    def test_names_are_no_commands(self):
        layer = LAYER | {"width": 64}
        self.file("net.json", layer)
        name = "it's '$(touch OWNED)' a; touch OWNED.jsonl"
        for runner in ((), ("--runner", "env {}")):
            done = self.run_tool("tune", "net.json", "-t", TARGET, "--budget", "1", "--records", name, *runner,
                                 cwd=self.dir)
            self.assertEqual(done.returncode, 0, done.stderr)
            (self.dir / name).unlink()
        self.nothing_written("net.json")

    def test_a_run_without_a_result_is_no_success(self):
        self.file("net.json", LAYER | {"width": 64})
        done = self.run_tool("tune", "net.json", "-t", TARGET, "--budget", "1", "--records", "r.jsonl", "--runner",
                             "echo no; false {}", cwd=self.dir)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("all trials (1) failed, the last with run-error: no", done.stderr)

    def test_folders_of_others_stay(self):
        self.file("net.json", LAYER | {"width": 64})
        for name in ("r.jsonl.work", ".qconvc-abcdef"):
            (self.dir / name).mkdir()
            (self.dir / name / "mine").write_text("mine")
        done = self.run_tool("tune", "net.json", "-t", TARGET, "--budget", "1", "--records", "r.jsonl", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.nothing_written("net.json", "r.jsonl", "r.jsonl.work", ".qconvc-abcdef")
        self.assertTrue((self.dir / "r.jsonl.work/mine").exists() and (self.dir / ".qconvc-abcdef/mine").exists())

    def test_targets_by_commas(self):
        layers = self.file("net.json", LAYER)
        self.refuse(["compile", layers, "-o", self.dir / "out", "-t", "sse41,avx3"], "'avx3'")


class Streams(Cli):
    def with_stderr(self, *arguments, redirect):
        script = f'exec "$0" "$@" {redirect}'
        return subprocess.run(["sh", "-c", script, cli_support.QCONVC, *map(str, arguments)], capture_output=True,
                              text=True, cwd=self.dir, timeout=300)

    def test_nobody_listens(self):
        layers = self.file("net.json", LAYER)
        for redirect in ("2>&-", "2>/dev/full", "1>&- 2>&-", "<&- 1>&- 2>&-"):
            self.assertEqual(self.with_stderr("compiel", redirect=redirect).returncode, 2, redirect)
        for number, redirect in enumerate(("2>&-", "2>/dev/full")):
            out = self.dir / f"out{number}"
            done = self.with_stderr("compile", layers, "-t", TARGET, "-o", out, redirect=redirect)
            self.assertEqual(done.returncode, 0, redirect)
            self.assertTrue((out / "manifest.json").read_text().startswith("{"))
        for redirect in ("1>&-", "1>/dev/full"):
            self.assertEqual(self.with_stderr("list", redirect=redirect).returncode, 3, redirect)
            self.assertEqual(self.with_stderr("--help", redirect=redirect).returncode, 3, redirect)

    def test_messages_are_one_line_without_control_characters(self):
        self.refuse(["tune", "a\nqconvc: b\x1b[2J\x7f\u009b.jsonl"], "a\\nqconvc: b\\x1b[2J\\x7f\\x9b.jsonl")
        self.refuse(["compile", self.file("net.json", LAYER | {"name": "a\x1b[2J"}), "-t", TARGET, "-o", "out"],
                    "control character")

    def test_temporary_folder(self):
        layers = self.file("net.json", LAYER)
        done = self.refuse(["verify", layers, "-t", TARGET, "--kernels", "specialised"], "TMPDIR is /not/there", code=3,
                           env=os.environ | {"TMPDIR": "/not/there"})
        self.assertNotIn("filesystem error", done.stderr)


class Libraries(Cli):
    def test_none_is_loaded_from_the_current_folder(self):
        try:
            done = subprocess.run(["readelf", "-d", cli_support.QCONVC], capture_output=True, text=True, check=True)
        except FileNotFoundError:
            self.skipTest("no readelf (Debian package binutils)")
        for line in done.stdout.splitlines():
            if "RUNPATH" in line or "RPATH" in line:
                self.assertNotIn("", line[line.index("[") + 1:line.rindex("]")].split(":"), line)


class Kills(Cli):
    def test_compile_leaves_nothing(self):
        layers = self.file("net.json", [LAYER | {"name": f"conv{i}", "kernel_size": i + 2} for i in range(12)])
        out = self.dir / "out"
        command = [cli_support.QCONVC, "compile", layers, "-t", TARGET, "-o", out, "-j", "2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        workers = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not workers.read_text():
            self.assertIsNone(process.poll(), "it ended before it was killed")
            time.sleep(0.01)
        started = workers.read_text().split()
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while any(pathlib.Path(f"/proc/{pid}").exists() for pid in started):
            self.assertLess(time.monotonic(), deadline, "a worker goes on")
            time.sleep(0.05)
        self.assertTrue(list(out.glob(".qconvc-*")))
        done = self.run_tool("compile", self.file("one.json", LAYER), "-t", TARGET, "-o", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(list(out.glob(".qconvc-*")), [])


class Arrays(Cli):
    def test_headers(self):
        layers, weight = self.file("net.json", LAYER), self.file("w.npy", npy((8, 8, 3)))
        good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 8, 16), }"
        for header in (good + " x", good[:-1] + "'descr': '<f4', }", good.replace("'<f4',", "'<f4'"),
                       good.replace("(1, 8, 16)", "(1 8 16)"), "{'descr': '<f4', 'descr': '<f4', 'shape': (1, 8, 16)}"):
            with self.subTest(header=header):
                text = header.encode().ljust(117) + b"\n"
                data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(4 * 128)
                self.refuse(["run", "-l", layers, "-x", self.file("x.npy", data), "-w", weight, "-o", self.dir / "y.npy"],
                            "x.npy", "header")


if __name__ == "__main__":
    cli_support.main(__doc__)
