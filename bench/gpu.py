#!/usr/bin/env python3
"""Times layers on this machine's NVIDIA GPU, beside bitorch's own, eager and under torch.compile.

    bench/gpu.py                                     the ten rows with the most work, batch 1, 8 and 64, sign/sign
    bench/gpu.py --rows 'wav2vec2|Jasper' --batches 8
    bench/gpu.py --pairs sign/sign NoAct/sign        other quantizers too
    bench/gpu.py --quick                             fewer samples

Every result is compared with bitorch's and with sums in double precision before anything is timed. Times are medians
between CUDA events, warm, the sides turn by turn. Writes results.md and results.json. Ends with status 2 where there is
no GPU. Makes the rivals' environment of bench/peers.py if need be (several GB).
"""
import argparse
import ctypes
import dataclasses
import json
import math
import re
import statistics
import sys
from pathlib import Path

from peers import HERE, PAIRS, ROOT, add_environment_options, enter_venv, find_qconv
from rows import read_rows

# Multiply-adds that an SM completes a clock at most, by what the kernel counts with: carry-save adders (LOP3 and POPC
# in balance), dp4a, FFMA.
LIMITS = {"popcount": 1024, "dp4a": 256, "ffma": 128}
MULTIPROCESSORS, CLOCK_KHZ = 16, 13  # CU_DEVICE_ATTRIBUTE_...


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workloads", type=Path, default=HERE / "workloads.csv")
    p.add_argument("--pairs", nargs="+", default=["sign/sign"], metavar="INPUT/WEIGHT",
                   help="quantizers, for instance " + ", ".join(PAIRS))
    p.add_argument("--rows", default="", metavar="REGEX", help="rows whose network/layer matches, in place of the largest")
    p.add_argument("--largest", type=int, default=10, metavar="N", help="the N rows with the most work (default 10)")
    p.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], metavar="N")
    p.add_argument("--quick", action="store_true", help="fewer samples, and no torch.compile")
    p.add_argument("--gpu", type=int, default=0, help="its number (default 0)")
    p.add_argument("--output", type=Path, default=ROOT / "build" / "gpu", help="folder of the results (default build/gpu)")
    add_environment_options(p)
    return p.parse_args()


def gpu_facts(number):
    """(SMs, highest clock in GHz) of a GPU. Ends the program, with the reason, where there is none."""

    def give_up(why):
        print(f"bench/gpu.py: no GPU to time on: {why}", file=sys.stderr)
        raise SystemExit(2)

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        give_up(f"no CUDA driver is installed ({error})")
    count = ctypes.c_int()
    for name, *values in (("cuInit", 0), ("cuDeviceGetCount", ctypes.byref(count))):
        if code := getattr(driver, name)(*values):
            give_up(f"{name} failed with error {code}")
    if not 0 <= number < count.value:
        give_up(f"--gpu is {number}; this machine has {count.value}")
    facts = []
    for attribute in (MULTIPROCESSORS, CLOCK_KHZ):
        value = ctypes.c_int()
        if code := driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, number):
            give_up(f"cuDeviceGetAttribute failed with error {code}")
        facts.append(value.value)
    return facts[0], facts[1] / 1e6


def choose_rows(a):
    rows = read_rows(a.workloads)
    if a.rows:
        rows = [row for row in rows if re.search(a.rows, row.name)]
    else:
        rows = sorted(rows, key=lambda row: row.macs, reverse=True)[:a.largest]
    if not rows:
        raise SystemExit(f"bench/gpu.py: --rows '{a.rows}' matches no row of {a.workloads}")
    return rows


def same(name, got, want, tolerance):
    """Raises unless two results of the GPU agree."""
    error = float((got - want).abs().max())
    if got.shape != want.shape or not error <= tolerance:
        raise AssertionError(f"{name} and bitorch differ by {error:g}, allowed {tolerance:g}")


def microseconds(torch, call, samples):
    """Of one call, in samples of many that follow one another on the stream."""
    def sample(calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / calls

    once = sample(3)
    calls = max(1, min(1000, math.ceil(2000 / max(once, 1))))
    sample(calls)
    return [sample(calls) for _ in range(samples)]


def measure(a, torch, rivals, our_layer, row, pair, facts):
    """The record of one row and batch: checked, then timed."""
    torch.cuda.empty_cache()
    torch._dynamo.reset()
    problem = rivals.Problem(row, pair)
    x = torch.from_numpy(problem.x).cuda()
    theirs = rivals.bitorch_layer(row, pair, problem.weight).cuda().eval()
    calls = {"qconv": our_layer(row, pair, problem.weight).cuda().eval(), "bitorch": theirs}
    if not a.quick:
        calls["compiled"] = torch.compile(theirs)
    exact = pair.name == "sign/sign"
    weight = pair.weight(problem.weight)
    tolerance = rivals.float_tolerance(weight)
    expected = problem.expect(problem.x, weight, rivals.PAD_VALUE, pair.input)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # sums in float32 while results are compared
    # Binary layers have one answer, in whole numbers; cuDNN's transforms come near it.
    reference = theirs(x).round() if exact else theirs(x)
    for name, call in calls.items():
        same(name, call(x), reference, tolerance if not exact else 0 if name == "qconv" else 0.25)
    problem.check("qconv", calls["qconv"](x).cpu().numpy(), expected, 0 if exact else tolerance)
    torch.backends.cudnn.allow_tf32 = tf32
    torch._dynamo.reset()
    if not a.quick:
        calls["compiled"] = torch.compile(theirs)

    times = {name: [] for name in calls}
    for _ in range(3 if a.quick else 5):
        for name, call in calls.items():
            times[name] += microseconds(torch, lambda: call(x), 3 if a.quick else 5)
    us = {name: statistics.median(values) for name, values in times.items()}
    sms, ghz = facts
    unit = "popcount" if exact else "ffma" if pair.noact else "dp4a"
    rate = row.macs / (us["qconv"] * 1e3 * ghz * sms)
    return dict(row=row.name, batch=row.batch, pair=pair.name, us=us, least={k: min(v) for k, v in times.items()},
                ratios={k: us[k] / us["qconv"] for k in us if k != "qconv"}, macs_per_clock_per_sm=rate, unit=unit,
                share=rate / LIMITS[unit], gb_per_s=4 * (x.numel() + reference.numel()) / us["qconv"] / 1e3)


def report(a, torch, facts, records):
    """results.md: ratios above 1 are qconv's favour."""
    sms, ghz = facts
    lines = [f"# {torch.cuda.get_device_name()}, {sms} SMs, {ghz:.2f} GHz at most", "",
             f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; TF32 in bitorch's convolutions: "
             f"{'on' if torch.backends.cudnn.allow_tf32 else 'off'}, as PyTorch has it. Medians, warm, from float to float; "
             "weights packed before. `limit`: multiply-adds a clock and SM, at the highest clock, of what the SM can count: "
             + ", ".join(f"{unit} {value}" for unit, value in LIMITS.items()) + ".", ""]
    for pair in dict.fromkeys(record["pair"] for record in records):
        own = [record for record in records if record["pair"] == pair]
        rivals = list(own[0]["ratios"])
        lines += [f"## {pair}", "", "| row | batch | qconv us | " + " | ".join(f"{r} us | {r} / qconv" for r in rivals)
                  + " | MAC/clock/SM | limit | GB/s |", "|---|--:" + "|--:" * (4 + 2 * len(rivals)) + "|"]
        for r in own:
            cells = " | ".join(f"{r['us'][k]:.1f} | {r['ratios'][k]:.2f}" for k in rivals)
            lines.append(f"| {r['row']} | {r['batch']} | {r['us']['qconv']:.1f} | {cells} | "
                         f"{r['macs_per_clock_per_sm']:.0f} | {r['share']:.0%} | {r['gb_per_s']:.0f} |")
        lines.append("")
        for batch in dict.fromkeys(r["batch"] for r in own):
            means = [f"{k} / qconv {statistics.geometric_mean(r['ratios'][k] for r in own if r['batch'] == batch):.2f}"
                     for k in rivals]
            lines.append(f"Batch {batch}, geometric mean: {', '.join(means)}.")
        lines.append("")
    a.output.mkdir(parents=True, exist_ok=True)
    (a.output / "results.md").write_text("\n".join(lines))
    (a.output / "results.json").write_text(json.dumps(dict(sms=sms, ghz=ghz, records=records), indent=1))
    print("\n".join(lines))
    print(f"written to {a.output}")


def main():
    a = arguments()
    facts = gpu_facts(a.gpu)
    enter_venv(a.venv, __file__)
    find_qconv(a)
    import rivals
    import torch
    from training_rivals import our_layer
    if not torch.cuda.is_available():
        print("bench/gpu.py: no GPU to time on: this PyTorch cannot use it (torch.cuda.is_available())", file=sys.stderr)
        raise SystemExit(2)
    torch.cuda.set_device(a.gpu)
    records, failures = [], 0
    for name in a.pairs:
        for row in choose_rows(a):
            for batch in a.batches:
                row = dataclasses.replace(row, batch=batch)
                try:
                    records.append(measure(a, torch, rivals, our_layer, row, rivals.Pair(name), facts))
                except (AssertionError, torch.OutOfMemoryError, RuntimeError) as error:
                    failures += 1
                    print(f"{name} {row.name} batch {batch}: {type(error).__name__}: {error}"[:400], file=sys.stderr)
                    continue
                r = records[-1]
                print(f"{name} {r['row']} batch {batch}: {r['us']['qconv']:.1f} us, "
                      + ", ".join(f"{k} x{v:.2f}" for k, v in r["ratios"].items()), file=sys.stderr)
    if records:
        report(a, torch, facts, records)
    if failures:
        raise SystemExit(f"bench/gpu.py: {failures} rows failed; see above")


if __name__ == "__main__":
    main()
