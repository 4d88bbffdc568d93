"""The report of bench/peers.py: ratios per row, geometric means, and the rows where a rival is ahead."""
import json
import math
import statistics

NAMES = dict(qconv="qconv", qconv_c="qconv in C", bitorch="bitorch", bitorch_bf16="bitorch, bf16 autocast",
             bitorch_compile="bitorch, torch.compile", ort="ONNX Runtime int8", conv1d="PyTorch fp32 conv1d",
             backward="PyTorch fp32 backward", backward_bf16="PyTorch bf16 backward", nn_conv1d="torch.nn.Conv1d")
RIVALS = [key for key in NAMES if not key.startswith("qconv")]
# Rows whose work dwarfs what calls cost: ungrouped, with as many multiply-adds (in millions) or more.
LARGE = 100


def geometric_mean(values):
    values = list(values)
    return math.exp(statistics.fmean(map(math.log, values))) if values else float("nan")


def load(log):
    """The last record of each row and pair, and the last environment."""
    rows, environment = {}, {}
    for line in log.read_text().splitlines():
        r = json.loads(line)
        if "environment" in r:
            environment = dict(r["environment"], build=r["build"], bench_arguments=r["bench_arguments"])
        else:
            rows[r["pair"], r["row"]] = r
    return list(rows.values()), environment


def row_ratio(record, rival):
    """How many times faster qconv is: the median over rounds of the ratio of neighbouring turns."""
    ours, theirs = (record["sides"].get(side, {}).get("rounds") for side in ("qconv", rival))
    return statistics.median(t / o for o, t in zip(ours, theirs)) if ours and theirs else None


def is_large(record):
    return record.get("groups") == 1 and record["mmac"] >= LARGE


def summarize(records, environment):
    """Per pair: geometric means, rows behind, percent of the peak."""
    overhead, pairs = environment.get("ort_call_overhead_us", 0.0), {}
    for pair in dict.fromkeys(r["pair"] for r in records):
        mine = [r for r in records if r["pair"] == pair]
        entry = pairs[pair] = dict(rows=len(mine), rivals={}, failed=[])
        for r in mine:
            entry["failed"] += [dict(row=r["row"], side=k, why=s["failed"])
                                for k, s in r["sides"].items() if "failed" in s]
            ours = r["sides"].get("qconv", {})
            if "us" in ours and r.get("peak_gmacs"):
                r["percent_of_peak"] = 100 * ours["gmacs"] / r["peak_gmacs"]
            r["ratios"] = {}
        for rival in RIVALS:
            for r in mine:
                value = row_ratio(r, rival)
                if value is not None:
                    r["ratios"][rival] = value
            ratios = {r["row"]: r["ratios"][rival] for r in mine if rival in r["ratios"]}
            gmacs = [r["sides"][rival]["gmacs"] for r in mine if "gmacs" in r["sides"].get(rival, {})]
            if not gmacs:
                continue
            e = entry["rivals"][rival] = dict(rows=len(gmacs), geomean_gmacs=geometric_mean(gmacs))
            if ratios:
                least_times = [r["sides"][rival]["min_us"] / r["sides"]["qconv"]["min_us"]
                               for r in mine if rival in r["ratios"]]
                e.update(geomean_ratio=geometric_mean(ratios.values()), least=min(ratios.values()),
                         geomean_ratio_of_least_times=geometric_mean(least_times),
                         behind=sorted((v, k) for k, v in ratios.items() if v < 1))
                large = [ratios[r["row"]] for r in mine if r["row"] in ratios and is_large(r)]
                if large:
                    e.update(large_rows=len(large), large_geomean_ratio=geometric_mean(large), large_least=min(large))
            if rival == "ort" and ratios:
                # The same with the session's own cost per call taken off the rival's time.
                net = [max(r["sides"]["ort"]["us"] - overhead, 0.01) / r["sides"]["qconv"]["us"]
                       for r in mine if "ort" in r["ratios"]]
                e.update(geomean_ratio_without_call=geometric_mean(net))
        ours = [r["sides"]["qconv"]["gmacs"] for r in mine if "gmacs" in r["sides"].get("qconv", {})]
        if ours:
            entry["qconv_geomean_gmacs"] = geometric_mean(ours)
            entry["qconv_geomean_percent_of_peak"] = geometric_mean(
                [r["percent_of_peak"] for r in mine if "percent_of_peak" in r])
            large = [r["percent_of_peak"] for r in mine if "percent_of_peak" in r and is_large(r)]
            if large:
                entry.update(large_rows=len(large), large_geomean_percent_of_peak=geometric_mean(large),
                             large_least_percent_of_peak=min(large))
    return pairs


def head(environment):
    out = [f"# {environment.get('title', 'qconv and its rivals, one thread')}", ""]
    return out + [f"- {k}: {v:.4g}" if isinstance(v, float) else f"- {k}: {v}"
                  for k, v in environment.items() if v != "" and k != "title"]


def rows_markdown(records, pairs):
    """Of each pair, what came of every row."""
    out = []
    for pair, entry in pairs.items():
        out += ["", f"## {pair}, {entry['rows']} rows", ""]
        if "qconv_geomean_gmacs" in entry:
            line = f"qconv: geometric mean {entry['qconv_geomean_gmacs']:.1f} GMAC/s"
            if not math.isnan(entry["qconv_geomean_percent_of_peak"]):
                line += f", {entry['qconv_geomean_percent_of_peak']:.1f}% of the measured peak"
            if "large_rows" in entry:
                line += (f"; on the {entry['large_rows']} ungrouped rows of {LARGE} MMAC or more "
                         f"{entry['large_geomean_percent_of_peak']:.1f}% "
                         f"(least {entry['large_least_percent_of_peak']:.1f}%)")
            out.append(line + ".")
        for rival, e in entry["rivals"].items():
            line = f"- {NAMES[rival]}: geometric mean {e['geomean_gmacs']:.1f} GMAC/s over {e['rows']} rows"
            if "geomean_ratio" in e:
                line += (f"; qconv is {e['geomean_ratio']:.2f}x as fast (least {e['least']:.2f}x; "
                         f"by least times {e['geomean_ratio_of_least_times']:.2f}x)")
            if "large_rows" in e:
                line += (f"; {e['large_geomean_ratio']:.2f}x on the {e['large_rows']} large rows "
                         f"(least {e['large_least']:.2f}x)")
            if "geomean_ratio_without_call" in e:
                line += f"; {e['geomean_ratio_without_call']:.2f}x without the session's call overhead"
            out.append(line + ".")
            if e.get("behind"):
                out.append("  Behind on: " + ", ".join(f"{name} ({v:.2f}x)" for v, name in e["behind"]) + ".")
        out += [f"- failed: {f['row']}, {NAMES[f['side']]}: {f['why']}" for f in entry["failed"]]
        mine = [r for r in records if r["pair"] == pair]
        sides = [s for s in NAMES if any("us" in r["sides"].get(s, {}) for r in mine)]
        rivals = [s for s in sides if s in RIVALS and "qconv" in sides]
        heads = ["row", "MMAC", "kernel", *(f"{NAMES[s]}, us" for s in sides), "GMAC/s", "% of peak"]
        heads += [f"x {NAMES[s]}" for s in rivals]
        out += ["", "| " + " | ".join(heads) + " |", "|---|---:|---|" + "---:|" * (len(heads) - 3)]
        for r in mine:
            cells = [r["row"], f"{r['mmac']:.3g}", r.get("kernel", "")]
            cells += [f"{r['sides'][s]['us']:,.1f}" if "us" in r["sides"].get(s, {}) else "-" for s in sides]
            ours = r["sides"].get("qconv", {})
            cells += [f"{ours['gmacs']:.1f}" if "gmacs" in ours else "-",
                      f"{r['percent_of_peak']:.1f}" if "percent_of_peak" in r else "-"]
            cells += [f"{r['ratios'][s]:.2f}" if s in r["ratios"] else "-" for s in rivals]
            out.append("| " + " | ".join(cells) + " |")
    return out


def write_report(log, folder, body):
    """`body` makes the lines that follow what the environment says."""
    records, environment = load(log)
    pairs = summarize(records, environment)
    text = "\n".join(head(environment) + body(records, pairs)) + "\n"
    for name, content in (("results.md", text), ("results.json", json.dumps(
            dict(environment=environment, pairs=pairs, rows=records), indent=1))):
        beside = folder / (name + ".part")
        beside.write_text(content)
        beside.rename(folder / name)
    print("\n".join(line for line in text.splitlines() if not line.startswith("|")))
    print(f"\nwritten: {folder / 'results.md'}, {folder / 'results.json'}")
