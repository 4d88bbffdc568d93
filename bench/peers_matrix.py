"""The report of bench/peers.py --pairs matrix: tables of pairs, and which pairs are behind."""
from matrix import is_binary, read_matrix
from peers_report import NAMES, RIVALS, geometric_mean

STEP_GOAL = 1.3  # times the rival's speed that a step should reach
BINARY_GRADIENT_GOAL = 2.0  # and a gradient of a binary pair
SIGN_TOLERANCE = 1.1  # times sign/sign's time: from here on, a binary pair is named


def split(record):
    """What was timed, and the pair."""
    what, _, pair = record["pair"].rpartition(", ")
    return what, pair


def ratio(record, rival):
    """How many times faster qconv is, by least times: hundreds of pairs meet every disturbance of the machine."""
    ours, theirs = (record["sides"].get(side, {}).get("min_us") for side in ("qconv", rival))
    return theirs / ours if ours and theirs else None


def ratios_to(records, rival):
    """(value, row, pair) of each record that has one, the least first."""
    return sorted((ratio(r, rival), r["row"], split(r)[1]) for r in records if ratio(r, rival))


def listed(values):
    """Pairs with their values, by row."""
    rows = {}
    for value, row, pair in values:
        rows.setdefault(row, []).append(f"{pair} {value:.2f}")
    return "; ".join(f"{row}: {', '.join(pairs)}" for row, pairs in rows.items()) or "none"


def summary(values):
    """Geometric mean and extremes."""
    (least, row, pair), (most, _, _) = values[0], values[-1]
    return (f"{geometric_mean(v for v, _, _ in values):.2f} (geometric mean of {len(values)}), "
            f"least {least:.2f} ({row} {pair}), most {most:.2f}")


def rival_lines(what, records, rival):
    values = ratios_to(records, rival)
    binary = [v for v in values if is_binary(v[2])]
    medians = geometric_mean(r["ratios"][rival] for r in records if rival in r["ratios"])
    out = [f"- Times as fast as {NAMES[rival]}: {summary(values)}; by medians {medians:.2f}."]
    if binary:
        out.append(f"  Binary pairs: {summary(binary)}.")
    out.append(f"  Behind: {listed(v for v in values if v[0] < 1)}.")
    if what == "training step":
        out.append(f"  From 1 to {STEP_GOAL}: {listed(v for v in values if 1 <= v[0] < STEP_GOAL)}.")
    elif rival == "backward":
        slow = listed(v for v in binary if 1 <= v[0] < BINARY_GRADIENT_GOAL)
        out.append(f"  Binary pairs from 1 to {BINARY_GRADIENT_GOAL:g}: {slow}.")
    return out


def beside_sign_lines(records):
    """Times of binary pairs over that of sign/sign on the same row: of one run, though they took no turns."""
    least = {(r["row"], split(r)[1]): r["sides"].get("qconv", {}).get("min_us") for r in records}
    values = sorted((us / least[row, "sign/sign"], row, pair) for (row, pair), us in least.items()
                    if us and least.get((row, "sign/sign")) and is_binary(pair) and pair != "sign/sign")
    if not values:
        return []
    return [f"- Time of binary pairs over that of sign/sign: {summary(values)}.",
            f"  {SIGN_TOLERANCE} or more: {listed(v for v in values if v[0] >= SIGN_TOLERANCE)}."]


def table(records, rivals):
    _, inputs, weights = read_matrix()
    by_pair = {split(r)[1]: r for r in records}
    out = ["| input \\ weight | " + " | ".join(weights) + " |", "|---|" + "---:|" * len(weights)]
    for left in inputs:
        cells = []
        for right in weights:
            values = [ratio(by_pair[f"{left}/{right}"], k) if f"{left}/{right}" in by_pair else None for k in rivals]
            cells.append(" / ".join(f"{value:.2f}" if value else "-" for value in values))
        out.append(f"| {left} | " + " | ".join(cells) + " |")
    return out


def matrix_markdown(records, _):
    """For peers_report.write_report."""
    out = []
    for what in dict.fromkeys(split(r)[0] for r in records):
        mine = [r for r in records if split(r)[0] == what]
        rivals = [rival for rival in RIVALS if ratios_to(mine, rival)]
        out += ["", f"## {what}, {len({split(r)[1] for r in mine})} pairs", ""]
        for rival in rivals:
            out += rival_lines(what, mine, rival)
        out += beside_sign_lines(mine)
        out += [f"- failed: {r['row']} {split(r)[1]}, {NAMES[key]}: {side['failed']}"
                for r in mine for key, side in r["sides"].items() if "failed" in side]
        for row in dict.fromkeys(r["row"] for r in mine):
            here = [r for r in mine if r["row"] == row]
            out += ["", f"### {row}, {here[0]['mmac']:.3g} MMAC: x {' / '.join(NAMES[k] for k in rivals)}", ""]
            out += table(here, rivals)
    return out
