"""The table of what was measured, and the goals."""

import math
import statistics

CONFIDENCE = 0.95
# Part of the better of Knot and NSD that ours may take, at most: at the upper end of the interval, and in the middle.
UPPER, MIDDLE = 0.85, 0.80
USER_US_ABOVE_FLOOR = 0.3
TIMES_LESS = {"coredns": 5, "consul": 15, "hickory": 4}


def interval(values):
    """(low, median, high): the sign test's interval for the median, which assumes nothing of the distribution.

    From the k-th smallest to the k-th greatest, with the greatest k that still covers the median with 95 %: of nine
    values the second and the eighth (96 %). Fewer than six cannot say as much: then there is none.
    """
    ordered, n = sorted(values), len(values)
    outside, k = 2 * 0.5**n, 0  # the probability that the median is beyond all of them
    while outside <= 1 - CONFIDENCE:
        k += 1
        outside += 2 * math.comb(n, k) * 0.5**n
    middle = statistics.median(ordered)
    return (ordered[k - 1], middle, ordered[-k]) if k else (None, middle, None)


def cpu(record):
    return record["user"] + record["system"]


def ratios(ours, theirs):
    """Ours over theirs, of the rounds that both have."""
    return [cpu(ours[at]) / cpu(theirs[at]) for at in sorted(ours.keys() & theirs.keys())]


def grouped(records):
    """row -> load -> server -> round -> record, in the order in which they came."""
    rows = {}
    for record in records:
        servers = rows.setdefault(record["row"], {}).setdefault(record["load"], {})
        servers.setdefault(record["server"], {})[record["round"]] = record
    return rows


def said(values, digits=2):
    low, middle, high = interval(values)
    if low is None:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(records):
    lines = []
    for row, loads in grouped(records).items():
        for load, servers in loads.items():
            some = next(iter(next(iter(servers.values())).values()))
            what = "at saturation" if load == "full" else f"at {some['offered']:,} queries a second offered"
            lines += [f"\n**{row}**, {what}\n",
                      "| server | CPU µs a query | user | system | ours ÷ it | queries a second | octets | "
                      "answer/authority/additional, octets | rounds |",
                      "|---|---|---|---|---|---|---|---|---|"]
            middle = lambda rounds, of: statistics.median(of(record) for record in rounds.values())
            for name, rounds in sorted(servers.items(), key=lambda item: middle(item[1], cpu)):
                ours = servers.get("callsign", {})
                both = ratios(ours, rounds) if name != "callsign" else []
                lines.append("| " + " | ".join([
                    f"**{name}**" if name == "callsign" else name,
                    f"{middle(rounds, cpu):.2f}",
                    f"{middle(rounds, lambda record: record['user']):.2f}",
                    f"{middle(rounds, lambda record: record['system']):.2f}",
                    said(both) if both else "",
                    f"{middle(rounds, lambda record: record['qps']):,.0f}",
                    f"{middle(rounds, lambda record: record['octets']):.0f}",
                    next(iter(rounds.values()))["sections"],
                    str(len(rounds)),
                ]) + " |")
            others = [record["others"] for rounds in servers.values() for record in rounds.values()]
            lines.append(f"\nOther programs had {100 * statistics.median(others):.0f} % of the two cores, "
                         f"{100 * max(others):.0f} % at most.")
            if "changes" in some:
                changes = [record["changes"] for record in servers["callsign"].values()]
                each = [record["change_us"] for record in servers["callsign"].values()]
                lines.append(f"Under {statistics.median(changes):,.0f} changes a second, which are in the figure; "
                             f"without queries a change costs {statistics.median(each):.1f} µs.")
    return "\n".join(lines)


def goals(records):
    """One line for each row and load that was measured, and which of its goals are not reached."""
    lines = ["| row | load | ours ÷ the better of Knot and NSD | the bare loop ÷ it | user µs above the bare loop | "
             + " | ".join(f"{name} ÷ ours (≥ {times})" for name, times in TIMES_LESS.items()) + " | not reached |",
             "|---|---|---|---|---|" + "---|" * len(TIMES_LESS) + "---|"]
    for row, loads in grouped(records).items():
        for load, servers in loads.items():
            ours = servers.get("callsign")
            if not ours or len(servers) == 1 or row in ("tcp", "dot"):
                continue
            missed, cells = [], [row, load]
            floor = servers.get("floor")
            rivals = [servers[name] for name in ("knot", "nsd") if name in servers]
            if rivals:
                better = min(rivals, key=lambda rounds: statistics.median(map(cpu, rounds.values())))
                _, middle, high = interval(ratios(ours, better))
                if high is None or high > UPPER or middle > MIDDLE:
                    missed.append("the better of Knot and NSD")
                cells += [said(ratios(ours, better)), said(ratios(floor, better)) if floor else ""]
            else:
                cells += ["", ""]
            if floor:
                above = statistics.median(ours[at]["user"] - floor[at]["user"] for at in ours.keys() & floor.keys())
                missed += ["user time"] * (above > USER_US_ABOVE_FLOOR)
                cells.append(f"{above:.2f}")
            else:
                cells.append("")
            for name, times in TIMES_LESS.items():
                if theirs := servers.get(name):
                    many = 1 / statistics.median(ratios(ours, theirs))
                    missed += [name] * (many < times)
                    cells.append(f"{many:.1f}")
                else:
                    cells.append("")
            lines.append("| " + " | ".join([*cells, ", ".join(missed)]) + " |")
    return "\n".join(lines)
