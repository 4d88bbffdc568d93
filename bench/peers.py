#!/usr/bin/env python3
"""Runs workload rows through qconv and its rivals, turn by turn on one core, and reports ratios.

    bench/peers.py                                  every row, sign/sign
    bench/peers.py --pairs sign/sign NoAct/sign     several pairs of quantizers
    bench/peers.py --rows 'wav2vec2|Jasper' --quick a few rows, briefly
    bench/peers.py --rivals-only                    the rivals alone (no qconvc needed)
    bench/peers.py --training                       training steps, gradients and the Python module instead
    bench/peers.py --training --pairs matrix        every pair of quantizers, on a few rows

Rows already measured with the same qconvc and kernels are skipped, so an interrupted run goes on where it stopped;
--fresh starts anew.
bench/README.md says how the figures are made.
"""
import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from matrix import matrix_pairs, read_matrix

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAIRS = ["sign/sign", "inputdorefa2/sign", "inputdorefa8/weightdorefa8", "NoAct/sign"]
MATRIX_JOBS = "step|grad"


def add_environment_options(p):
    p.add_argument("--venv", type=Path, default=ROOT / "build" / "peers-venv")
    p.add_argument("--library", type=Path, default=ROOT / "build" / "release" / "lib" / "libqconv.so",
                   help="training: the libqconv that python/qconv loads")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workloads", type=Path, default=HERE / "workloads.csv")
    p.add_argument("--pairs", nargs="+", default=["sign/sign"], metavar="INPUT/WEIGHT",
                   help="quantizers, for instance " + ", ".join(PAIRS) + "; 'all' for these four; 'matrix' (training) "
                   "for every input quantizer with every weight quantizer")
    p.add_argument("--rows", default="", metavar="REGEX",
                   help="only rows whose network/layer matches (default with --pairs matrix: those of matrix.json)")
    p.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    p.add_argument("--rounds", type=int, default=0, help="turns each side takes on a row (default 5, quick 3)")
    p.add_argument("--seconds", type=float, default=0, help="time of one turn (default 0.08, quick 0.03)")
    p.add_argument("--core", type=int, default=None, help="the CPU to run on (default: the last allowed one)")
    p.add_argument("--qconvc", type=Path, default=ROOT / "build" / "release" / "bin" / "qconvc")
    p.add_argument("--bench-arguments", default="", metavar="TEXT",
                   help="further arguments of qconvc bench, for instance '--target avx2'")
    p.add_argument("--training", action="store_true",
                   help="time training steps, both gradients and inference through the Python module")
    p.add_argument("--compile-every", type=int, default=0, metavar="N",
                   help="training: bitorch under torch.compile on every Nth row (default 0: never; it compiles long)")
    p.add_argument("--jobs", default="", metavar="REGEX",
                   help=f"training: only jobs whose name matches (default with --pairs matrix: {MATRIX_JOBS})")
    p.add_argument("--leave-out", nargs="+", default=[], metavar="SIDE",
                   help="rivals not to time: bitorch_bf16, for instance, on a CPU without bfloat16 instructions")
    p.add_argument("--rivals-only", action="store_true", help="time the rivals without qconv")
    add_environment_options(p)
    p.add_argument("--output", type=Path,
                   help="folder of rows.jsonl, results.json and results.md (default build/peers, build/peers-training, "
                   "build/peers-matrix)")
    p.add_argument("--fresh", action="store_true", help="forget rows measured before")
    p.add_argument("--report-only", action="store_true", help="write the report from rows.jsonl and stop")
    a = p.parse_args()
    a.matrix = a.pairs == ["matrix"]
    if a.matrix:
        if not a.training:
            p.error("--pairs matrix: only with --training")
        a.pairs, a.jobs = matrix_pairs(), a.jobs or MATRIX_JOBS
        a.rows = a.rows or "^(" + "|".join(re.escape(name) for name in read_matrix()[0]) + ")$"
    a.pairs = PAIRS if a.pairs == ["all"] else a.pairs
    a.output = a.output or ROOT / "build" / ("peers-matrix" if a.matrix else "peers-training" if a.training else "peers")
    a.rounds = a.rounds or (3 if a.quick else 5)
    a.seconds = a.seconds or (0.03 if a.quick else 0.08)
    return a


def enter_venv(venv, script=__file__):
    """Makes the rivals' environment if need be, and goes on in it."""
    python = venv / "bin" / "python"
    requirements = (HERE / "requirements.txt").read_text()
    stamp = venv / ".peers-requirements"
    if not stamp.exists() or stamp.read_text() != requirements:
        print(f"installing the rivals in {venv} (several GB, some minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")], check=True)
        stamp.write_text(requirements)
    if Path(sys.prefix).resolve() != venv.resolve():
        os.execv(python, [str(python), str(Path(script).resolve()), *sys.argv[1:]])


def find_qconv(a):
    """Lets `import qconv` find python/qconv of this repository, and that the library."""
    if not a.library.exists():
        raise SystemExit(f"{a.library} does not exist; build it (./dev build) or name it with --library")
    os.environ["QCONV_LIBRARY"] = str(a.library.resolve())
    sys.path.insert(0, str(ROOT / "python"))


def fingerprint(a):
    """Of what is timed: qconvc, the kernels that it loads, and the library that Python loads."""
    files = [a.qconvc, *sorted((a.qconvc.parent.parent / "lib" / "qconv").glob("*.so"))] + [a.library] * a.training
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def pin(core):
    allowed = sorted(os.sched_getaffinity(0))
    core = allowed[-1] if core is None else core
    os.sched_setaffinity(0, {core})
    try:
        os.nice(-10)  # needs privileges; without them other work on the core disturbs a little more
    except PermissionError:
        pass
    return core


class Ours:
    """`qconvc bench --serve`: one JSON line in, one out."""

    def __init__(self, a, pair, direction):
        # "inputdorefa2" is "inputdorefa(2)" to qconvc.
        left, weight = (re.sub(r"(\d+)$", r"(\1)", name) for name in pair.name.split("/"))
        command = [str(a.qconvc), "bench", str(a.workloads), "--serve"]
        command += ["--layer", "QConv1d_NoAct"] if left == "NoAct" else ["--input-quantization", left]
        command += ["--weight-quantization", weight, "--direction", direction, "--threads", "1"]
        if left != "NoAct":
            command += ["--threshold", "1"]  # as bitorch has it; of no effect on forward
        command += a.bench_arguments.split()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)

    def ask(self, **request):
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"peers.py: qconvc bench ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def turn(call, seconds):
    """Microseconds of single calls for about `seconds`; the first only warms the caches the others left cold."""
    times, spent = [], 0.0
    while spent < seconds or not times:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        spent += times[-1]
    return [t * 1e6 for t in (times[1:] or times)]


def measure(problem, job, sides, servers, a, index):
    """One row: every round gives every side a turn; returns the record of the row."""
    macs = job.passes * problem.row.macs
    record = dict(row=problem.row.name, pair=job.name, mmac=problem.row.macs / 1e6, groups=problem.row.groups, sides={})
    calls, rounds = {}, {}
    job.begin()
    for side in sides:
        try:
            ready = side(problem)
            calls[side.key] = ready.call
            record["sides"][side.key] = dict(error=ready.error)
        except Exception as e:  # a rival that cannot run a row is a finding, not the end of the run
            record["sides"][side.key] = dict(failed=f"{type(e).__name__}: {e}"[:300])
    for _ in range(a.rounds):
        for key, server in servers.items():
            reply = server.ask(row=index, seconds=a.seconds)
            if "error" in reply:
                record["sides"][key] = dict(failed=reply["error"])
            else:
                rounds.setdefault(key, []).append((reply["median_us"], reply["min_us"]))
                record.update({k: reply[k] for k in ("kernel", "target", "path", "peak_kind", "peak_gmacs")})
        for key, call in calls.items():
            if len(rounds.get(key, [])) >= 3 and rounds[key][-1][0] > 1e6:
                continue  # calls of seconds: three turns are enough
            times = turn(call, a.seconds)
            rounds.setdefault(key, []).append((statistics.median(times), min(times)))
    for key, values in rounds.items():
        medians = [m for m, _ in values]
        record["sides"].setdefault(key, {}).update(
            us=statistics.median(medians), min_us=min(m for _, m in values), rounds=medians,
            gmacs=macs / statistics.median(medians) / 1e3)
    return record


def main():
    a = arguments()
    enter_venv(a.venv)
    from rows import read_rows
    from peers_matrix import matrix_markdown
    from peers_report import rows_markdown, write_report

    a.output.mkdir(parents=True, exist_ok=True)
    log = a.output / "rows.jsonl"
    body = matrix_markdown if a.matrix else rows_markdown
    if a.fresh and log.exists():
        log.unlink()
    if a.report_only:
        return write_report(log, a.output, body)
    if not a.rivals_only and not a.qconvc.exists():
        raise SystemExit(f"peers.py: {a.qconvc} does not exist; build it (./dev build), name it with --qconvc, "
                         "or use --rivals-only")
    if a.training and not a.rivals_only:
        find_qconv(a)
    core = pin(a.core)
    import rivals

    build = "none" if a.rivals_only else fingerprint(a)
    run = dict(build=build, bench_arguments=a.bench_arguments)
    done = set()
    for line in log.read_text().splitlines() if log.exists() else ():
        r = json.loads(line)
        if "row" in r and all(r.get(k) == v for k, v in run.items()):
            done.add((r["row"], r["pair"]))
    rows = [(i, r) for i, r in enumerate(read_rows(a.workloads)) if re.search(a.rows, r.name)]
    jobs, overheads = jobs_of(a)
    known = {side.key for job in jobs for side in job.sides} - {"qconv"}
    if unknown := set(a.leave_out) - known:
        raise SystemExit(f"peers.py: --leave-out {' '.join(sorted(unknown))}: allowed are {', '.join(sorted(known))}")
    with log.open("a") as out:
        def write(record):
            print(json.dumps(record), file=out, flush=True)

        write(dict(run, environment=dict(rivals.versions(), core=core, cpu=cpu_name(), load=os.getloadavg()[0],
                                         when=time.strftime("%F %T"), rounds=a.rounds, seconds=a.seconds,
                                         **overheads)))
        try:
            for job in jobs:
                todo = [(i, r) for i, r in rows if (r.name, job.name) not in done]
                print(f"{job.name}: {len(todo)} rows to measure, {len(rows) - len(todo)} measured before")
                directions = job.directions if todo and not a.rivals_only else {}
                servers = {key: Ours(a, job.pair, direction) for key, direction in directions.items()}
                for number, (index, row) in enumerate(todo, 1):
                    skipped = {"qconv", *a.leave_out} if a.rivals_only else set(a.leave_out)
                    if not a.compile_every or index % a.compile_every:
                        skipped.add("bitorch_compile")
                    sides = [s for s in job.sides if s.key not in skipped]
                    record = measure(job.problem(row, job.pair), job, sides, servers, a, index)
                    write(dict(record, **run))
                    print(f"[{number}/{len(todo)}] {summary(record)}", flush=True)
                for server in servers.values():
                    server.close()
        except KeyboardInterrupt:
            print("\ninterrupted: the report covers the rows measured so far", file=sys.stderr)
    write_report(log, a.output, body)


def jobs_of(a):
    """What to time; and for the report what calls cost that do nothing."""
    import rivals

    def cost(call):
        return statistics.median(turn(call, 0.2))

    if not a.training:
        return [rivals.forward_job(p) for p in a.pairs], dict(ort_call_overhead_us=cost(rivals.ort_call_overhead()))
    import training_rivals as training

    jobs = [j for p in a.pairs for j in training.training_jobs(p) if re.search(a.jobs, j.name)]
    calls = {} if a.rivals_only else training.call_overhead()
    return jobs, dict(title="Training: qconv and its rivals, one thread",
                      **{f"{key}_call_of_one_mac_us": cost(call) for key, call in calls.items()})


def summary(record):
    parts = [f"{record['row']:42s}"]
    for key, side in record["sides"].items():
        parts.append(f"{key} {side['us']:.1f} us" if "us" in side else f"{key} FAILED ({side.get('failed', '')[:80]})")
    return "  ".join(parts)


def cpu_name():
    names = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return names[0] if names else "unknown"


if __name__ == "__main__":
    main()
