#!/usr/bin/env python3
"""qconvc tune: records, resuming, failures, merging, and what compile makes of the records."""

import contextlib
import csv
import functools
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import time

import cli_support
from cli_support import Cli

LAYER = {"name": "conv", "layer": "QConv1d", "in_channels": 16, "out_channels": 8, "kernel_size": 3,
         "padding": "same", "width": 64}
DEPTHWISE = {"name": "dw", "layer": "QConv1d", "in_channels": 8, "out_channels": 8, "kernel_size": 3, "groups": 8,
             "width": 64}
# Large enough that reading past an operand that is not there shows.
LARGE = {"name": "large", "layer": "QConv1d", "in_channels": 48, "out_channels": 40, "kernel_size": 3, "stride": 2,
         "width": 900, "batch": 2, "gradient_cancellation_threshold": 1}
AUTOSCHEDULERS = {"mullapudi2016", "li2018", "adams2019"}
TARGET = "sse41"  # runs everywhere and compiles fast


class Tune(Cli):
    def tune(self, *arguments, target=TARGET, **options):
        # Autoschedulers take minutes of CPU time, of which a busy machine may give a part.
        return self.run_tool("tune", "--target", target, *arguments, cwd=self.dir, timeout=1500, **options)

    def records(self, name="tuning.jsonl"):
        return [json.loads(line) for line in (self.dir / name).read_text().splitlines()]

    def trials(self, name="tuning.jsonl"):
        return [r for r in self.records(name) if r["kind"] == "measurement"]

    def test_records_resume_and_compile(self):
        self.file("net.json", LAYER)
        command = ("net.json", "--budget", "5", "--strategy", "random", "--jobs", "2")
        done = self.tune(*command)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("geometric mean gain", done.stdout)
        first = self.records()
        trials = self.trials()
        self.assertEqual(len(trials), 5)
        self.assertEqual(trials[0]["strategy"], "default")
        self.assertEqual(len({r["id"] for r in trials}), 5)
        for record in trials:
            for key in ("schema", "unit", "time", "layer", "direction", "halide_target", "knobs", "seed", "kernel",
                        "hashes", "machine", "versions", "threads"):
                self.assertIn(key, record)
            self.assertIsNone(record["failure"])
            self.assertEqual(len(record["result"]["repeats_us"]), 5)
            self.assertGreater(record["result"]["checked"], 0)
            self.assertTrue(all(record["hashes"].values()), record["hashes"])
        finals = [r for r in first if r["kind"] == "final"]
        # Turns are for those that were not clearly slower than the default.
        times = [r["result"]["time_us"] for r in trials]
        hopeful = any(time <= 1.05 * times[0] for time in times[1:])
        self.assertEqual(len(finals) >= 2, hopeful, times)

        # The same command again: nothing is left to do.
        done = self.tune(*command)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.records(), first)

        # A larger budget goes on where the smaller one ended, over a damaged last line.
        path = self.dir / "tuning.jsonl"
        path.write_text(path.read_text() + '{"schema": 1, "kind": "meas')
        done = self.tune("net.json", "--budget", "7", "--strategy", "random")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("damaged record", done.stderr)
        lines = path.read_text().splitlines()
        self.assertEqual([json.loads(line) for line in lines[:len(first)]], first)
        after = [json.loads(line) for line in lines[len(first) + 1:]]
        again = [r["id"] for r in after if r["kind"] == "measurement"]
        self.assertEqual(len(again), 2)
        self.assertFalse(set(again) & {r["id"] for r in trials})

        self.merge_and_compile()

    def merge_and_compile(self):
        done = self.run_tool("tune", "--merge", "tuned.db", "tuning.jsonl", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        again = self.run_tool("tune", "--merge", "tuned.db", "tuning.jsonl", cwd=self.dir)
        self.assertIn("0 new", again.stdout)
        database = sqlite3.connect(self.dir / "tuned.db")
        count = database.execute("SELECT COUNT(*) FROM records").fetchone()[0]
        lines = [line for line in (self.dir / "tuning.jsonl").read_text().splitlines() if not line.endswith("meas")]
        self.assertEqual(count, len(lines))

        done = self.run_tool("tune", "tuned.db", "--csv", "all.csv", "--t4", "all.json", "--report", "all.html",
                             cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.dir / "all.csv", newline="") as stream:
            self.assertEqual(len(list(csv.DictReader(stream))), count)
        t4 = json.loads((self.dir / "all.json").read_text())
        self.assertEqual(t4["schema_version"], "1.0.0")
        self.assertEqual({r["invalidity"] for r in t4["results"]}, {"correct"})
        page = (self.dir / "all.html").read_text()
        self.assertIn("<svg", page)
        self.assertNotIn("http", page.replace("http://www.w3.org/2000/svg", ""))

        # A record that says one row is far faster than the default is what compile takes.
        database.close()
        records = [json.loads(line) for line in lines]
        default = next(r for r in records if r["strategy"] == "default")
        other = next(r for r in records if r["strategy"] == "random" and r["id"] != default["id"])
        other["result"]["time_us"] = default["result"]["time_us"] / 2
        self.file("best.jsonl", "".join(json.dumps(r) + "\n" for r in (default, other)))
        done = self.run_tool("compile", "net.json", "-t", TARGET, "-o", "out", "--tuned", "best.jsonl", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        kernel = json.loads((self.dir / "out/manifest.json").read_text())["kernels"][0]
        self.assertEqual(kernel["tuned"]["record"], other["id"])
        self.assertAlmostEqual(kernel["tuned"]["gain_over_default"], 2)
        self.assertEqual(kernel["params"], other["kernel"]["params"])

        # Measured in turns, the gain was within the noise: the default stays. A steady gain counts.
        for factors, winner in (((1.03, 0.99, 1.001, 1.02), "default"), ((1.03, 1.05, 1.04, 1.02), "random")):
            finals = []
            for record, times in ((default, [10.0 * f for f in factors]), (other, [10.0] * len(factors))):
                final = json.loads(json.dumps(record))
                final.update(kind="final", group="turns")
                final["result"].update(time_us=min(times), repeats_us=times)
                finals.append(final)
            self.file("turns.jsonl", "".join(json.dumps(r) + "\n" for r in (default, other, *finals)))
            done = self.run_tool("compile", "net.json", "-t", TARGET, "-o", "out", "--tuned", "turns.jsonl",
                                 cwd=self.dir)
            self.assertEqual(done.returncode, 0, done.stderr)
            tuned = json.loads((self.dir / "out/manifest.json").read_text())["kernels"][0]["tuned"]
            self.assertEqual(tuned["strategy"], winner)
            self.assertTrue(tuned["confirmed"])
        # What winners are kept as says the same.
        done = self.run_tool("tune", "turns.jsonl", "--winners", "winners.jsonl", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({(r["kind"], r["strategy"]) for r in self.records("winners.jsonl")},
                         {("final", "default"), ("final", "random")})
        done = self.run_tool("compile", "net.json", "-t", TARGET, "-o", "out", "--tuned", "winners.jsonl",
                             cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        again = json.loads((self.dir / "out/manifest.json").read_text())["kernels"][0]["tuned"]
        self.assertEqual(again, tuned)

        # Of an algorithm that has changed since, it is not used.
        default["hashes"]["algorithm"] = other["hashes"]["algorithm"] = "0123456789abcdef"
        self.file("old.jsonl", "".join(json.dumps(r) + "\n" for r in (default, other)))
        done = self.run_tool("compile", "net.json", "-t", TARGET, "-o", "out", "--tuned", "old.jsonl", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("2 stale records", done.stderr)
        manifest = json.loads((self.dir / "out/manifest.json").read_text())
        self.assertNotIn("tuned", manifest["kernels"][0])
        self.assertEqual(manifest["tuned"]["stale_records"], 2)

    def test_every_autoscheduler_in_every_direction(self):
        # Gradients from a state, from x, and with a weight quantizer that has a derivative.
        layers = [LARGE, {**LARGE, "input_quantization": "swishsign", "weight_quantization": "approxsign"}]
        for i, layer in enumerate(layers):
            self.file("net.json", layer)
            for direction in ("forward", "grad-input", "grad-weight"):
                with self.subTest(layer=layer, direction=direction):
                    before = len(self.trials(f"{i}.jsonl")) if direction != "forward" else 0
                    done = self.tune("net.json", "--budget", "4", "--strategy", ",".join(sorted(AUTOSCHEDULERS)),
                                     "--directions", direction, "--jobs", "2", "--candidate-time", "1500",
                                     "--no-retrain", "--records", f"{i}.jsonl")
                    self.assertEqual(done.returncode, 0, done.stderr)
                    trials = self.trials(f"{i}.jsonl")[before:]
                    self.assertEqual({r["strategy"] for r in trials}, AUTOSCHEDULERS | {"default"})
                    for record in trials:
                        # It fails a check inside Halide on stages that its estimates leave unused (docs/tuning.md).
                        if direction == "grad-weight" and record["strategy"] == "mullapudi2016" and record["failure"]:
                            self.assertEqual(record["failure"]["class"], "compile-error", record)
                            continue
                        self.assertIsNone(record["failure"], record)
                        self.assertGreater(record["result"]["checked"], 0)
                        if record["strategy"] == "default":
                            continue
                        self.assertIn("apply_schedule", record["schedule"])
                        self.assertEqual(record["kernel"]["autoscheduler"]["name"].lower(), record["strategy"])
        done = self.run_tool("tune", "0.jsonl", "--export-schedules", "schedules", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        sources = list((self.dir / "schedules").iterdir())
        self.assertIn(len(sources), (2, 3))
        self.assertTrue(all("apply_schedule" in source.read_text() for source in sources))

    def test_mix_tries_every_strategy_early(self):
        self.file("net.json", LAYER)
        done = self.tune("net.json", "--budget", "8", "--jobs", "2", "--no-retrain", "--estimate")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({r["strategy"] for r in self.records()}, AUTOSCHEDULERS | {"default", "evolve"})

    def test_workload_table(self):
        self.file("net.csv", "name,layer,C_in,C_out,K,stride,pad,dilation,groups,W_in\n"
                             "net,a,16,8,3,1,1,1,1,64\nnet,b,16,8,3,1,1,1,1,64\nnet,c,8,8,3,2,1,1,8,60\n")
        done = self.tune("net.csv", "--budget", "1", "--directions", "grad-input", "--input-quantization", "swishsign",
                         "--threshold", "1.5", "--estimate")
        self.assertEqual(done.returncode, 0, done.stderr)
        # Rows that differ in their name alone are one.
        self.assertEqual([r["layer"]["name"] for r in self.records()], ["net/a", "net/c"])
        for record in self.records():
            self.assertEqual(record["layer"]["input_quantization"]["name"], "swishsign")
            self.assertEqual(record["layer"]["gradient_cancellation_threshold"], 1.5)

    def test_anderson2021_schedules_every_path(self):
        self.file("net.json", LAYER)
        # Nothing runs without a GPU, and no estimate reads PTX: that a kernel comes out is what can be seen here.
        done = self.tune("net.json", "--budget", "3", "--strategy", "anderson2021", "--directions",
                         "forward,grad-weight", "--estimate", "--jobs", "2", target="cuda")
        self.assertEqual(done.returncode, 0, done.stderr)
        made = [r for r in self.records() if r["strategy"] == "anderson2021"]
        self.assertEqual({r["direction"] for r in made}, {"forward", "grad-weight"})
        for record in made:
            self.assertEqual((record["failure"] or {"class": "no-estimate"})["class"], "no-estimate", record)

    def test_failures_are_recorded(self):
        self.file("net.json", LAYER)
        # Too little memory and time: every candidate fails, none stops the run, which is no success.
        done = self.tune("net.json", "--budget", "2", "--strategy", "random", "--candidate-memory", "0.03")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertTrue(all(r["failure"]["class"] for r in self.trials()), self.trials())
        # A runner that prints nothing, and one that fails.
        done = self.tune("net.json", "--budget", "1", "--records", "b.jsonl", "--runner", "true {}")
        self.assertEqual(self.trials("b.jsonl")[0]["failure"]["class"], "no-answer", done.stderr)
        done = self.tune("net.json", "--budget", "1", "--records", "c.jsonl", "--runner", "kill -SEGV $$ # {}")
        self.assertEqual(self.trials("c.jsonl")[0]["failure"]["class"], "run-crash", done.stderr)
        done = self.tune("net.json", "--budget", "1", "--records", "d.jsonl", "--runner", "echo a board says; {}")
        self.assertIsNone(self.trials("d.jsonl")[0]["failure"], done.stderr)

    def test_shards_and_kill(self):
        self.file("net.json", [LAYER, DEPTHWISE])
        command = [cli_support.QCONVC, "tune", "--target", TARGET, "net.json", "--budget", "3", "--strategy", "grid"]
        whole = self.tune("net.json", "--budget", "3", "--strategy", "grid", "--records", "whole.jsonl")
        self.assertEqual(whole.returncode, 0, whole.stderr)
        ids = set()
        for shard in ("1", "2"):
            name = f"part{shard}.jsonl"
            process = subprocess.Popen([*command, "--records", name, "--shard", f"{shard}/2"], cwd=self.dir,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if shard == "2":
                while not (self.dir / name).exists() or not (self.dir / name).read_text():
                    time.sleep(0.05)
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
            if shard == "2":
                before = (self.dir / name).read_text()
                done = self.tune("net.json", "--budget", "3", "--strategy", "grid", "--records", name, "--shard",
                                 "2/2")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue((self.dir / name).read_text().startswith(before.rsplit("\n", 1)[0]))
            trials = self.trials(name)
            self.assertEqual(len(trials), len({r["id"] for r in trials}), "a measurement was repeated")
            self.assertEqual(len({r["unit"] for r in trials}), 1)
            ids |= {r["id"] for r in trials}
        self.assertEqual(ids, {r["id"] for r in self.trials("whole.jsonl")})

    def test_damaged_records_are_named_and_left_out(self):
        good = json.loads((pathlib.Path(__file__).parent / "fuzz/corpus/tune_records/one").read_text())
        cases = [
            ({"machine": 5}, "'machine'"),
            ({"kind": None}, "'kind'"),
            ({"knobs": {"tile_width": -1}}, "'knobs'"),
            ({"result": {**good["result"], "repeats_us": ["1"]}}, "'result.repeats_us'"),
            ({"result": {**good["result"], "time_us": 1e300}}, "'result.time_us'"),
            ({"result": None}, "result or a failure"),
            ({"kernel": {**good["kernel"], "autoscheduler": {}}}, "'kernel.autoscheduler.params'"),
            ({"layer": {**good["layer"], "width": 1}}, "'width' is 1"),
            ({"layer": {**good["layer"], "stride": 0}}, "stride"),
            ({"direction": "sideways"}, "sideways"),
            ({"note": functools.reduce(lambda inner, _: [inner], range(40), 1)}, "inside each other"),
        ]
        newer = [{"schema": 2, "kind": 7}, {"schema": 2**32 + 1}]  # the second is not 1 in 32 bits either
        lines = [json.dumps(record) for record in (good, *({**good, **change} for change, _ in cases), *newer)]
        self.file("mixed.jsonl", "\n".join(lines) + "\n")
        outputs = ("--csv", "all.csv", "--t4", "all.json", "--report", "all.html", "--winners", "winners.jsonl")
        done = self.run_tool("tune", "mixed.jsonl", *outputs, cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        messages = done.stderr.splitlines()
        self.assertEqual(len(messages), len(cases), done.stderr)
        for line, ((_, word), message) in enumerate(zip(cases, messages), 2):
            self.assertIn(f"mixed.jsonl:{line}: ", message)
            self.assertIn(word, message)
        self.assertEqual(len((self.dir / "all.csv").read_text().splitlines()), 2)

        # A database is as little to be trusted. What a newer qconvc wrote stays in it.
        done = self.run_tool("tune", "--merge", "all.db", "mixed.jsonl", cwd=self.dir)
        self.assertIn("3 records read, 3 new, 3 stale", done.stdout)
        with contextlib.closing(sqlite3.connect(self.dir / "all.db")) as database:
            database.execute("UPDATE records SET json = '{' WHERE schema = '1'")
            database.commit()
        done = self.run_tool("tune", "all.db", "--csv", "again.csv", cwd=self.dir)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("all.db: skipped a damaged record", done.stderr)

    def test_bad_input(self):
        self.file("net.json", LAYER)
        net = ("tune", "net.json", "--target", TARGET)
        cases = [
            ([*net, "--budget", "fast"], ("--budget 'fast'", "30m")),
            ([*net, "--budget", "0"], ("--budget '0'",)),
            ([*net, "--shard", "3/2"], ("--shard '3/2'", "1 <= i <= n")),
            ([*net, "--strategy", "evolv"], ("did you mean 'evolve'",)),
            ([*net, "--strategy", "anderson2021"], ("anderson2021", TARGET)),
            ([*net, "--runner", "qemu"], ("--runner", "{}")),
            (["tune"], ("layer file",)),
            (["tune", "--merge", "out.db", "missing.jsonl"], ("missing.jsonl",)),
            (["tune", "--merge", "net.json", "net.json"], ("net.json", "no database")),
            (["compile", "net.json", "-t", TARGET, "-o", "out", "--tuned", "missing.db"], ("missing.db",)),
        ]
        for arguments, words in cases:
            with self.subTest(arguments=arguments):
                self.refuse(arguments, *words, cwd=self.dir)
        self.nothing_written("net.json")


if __name__ == "__main__":
    cli_support.main(__doc__)
