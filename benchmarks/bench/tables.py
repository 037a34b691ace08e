"""The figures in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.bench.formats import ranged, short
from benchmarks.bench.peer import Durability
from benchmarks.bench.results import OURS, PeerInfo, Results
from benchmarks.bench.workload import PROCESSOR, RATE, SYNCS, Group, Metric
from benchmarks.bench.workloads import WORKLOADS, growing, latency, reopening

THROUGHPUT = tuple(name for name, workload in WORKLOADS.items() if workload.metrics[0] is RATE)
LATENCY = (latency.PUBLISH.name, latency.THREADS.name, latency.PROCESSES.name)
REOPEN = reopening.REOPEN.name
GROWTH = (growing.WAITING.name, growing.QUEUES.name, growing.SEGMENTS.name)
CLEANING = "cleaning"

Row = Sequence[str]
Picture = Callable[[str], str]
"""The line that shows the plot of this name; empty if there is none."""


def table(head: Row, rows: Sequence[Row], *, words: bool = False) -> str:
    """Markdown, with the columns aligned for reading the source.

    The first column is aligned to the left; with *words* in place of figures, all of them.
    """
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]

    def line(cells: Row) -> str:
        first, *rest = (
            cell.rjust(width) if index and not words else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    last = "-" if words else ":"
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + last for width in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def name_of(peer: PeerInfo) -> str:
    return f"**{peer.title}**" if peer.name == OURS else peer.title + ("" if peer.survives else " ¹")


def setting_title(durability: Durability, slow: bool, size: int) -> str:
    how = "durable" if durability == "durable" else "OS-buffered"
    return f"{how}{', on a disk with a 1 ms fsync' if slow else ''}, bodies of {size:,} bytes"


def details(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n</details>\n"


# ── the parts of the report ────────────────────────────────────────────────────────


def report(results: Results, picture: Picture) -> str:
    """All of it; the headings are of the third level."""
    parts = [
        about(results),
        *throughput(results, picture),
        *latencies(results, picture),
        *openings(results, picture),
        *growth(results, picture),
        *cleaning(results, picture),
        promises(results.peers),
        *remarks(results),
    ]
    return "\n".join(parts)


def about(results: Results) -> str:
    told = "; ".join(f"{what} {value}" for what, value in results.machine.items())
    parts = [f"{told}.\n"]
    if not results.finished:
        parts.append("**The run was interrupted: this is what was measured until then.**\n")
    several = f"Medians of {results.rounds} rounds (the heavy ones: at most 3), with the range."
    parts.append(
        f"{several if results.rounds > 1 else 'One round.'}  × says how many times as fast mq is, in the same"
        " round.  ¹ does not survive the death of its process.\n"
    )
    return "\n".join(parts)


def throughput(results: Results, picture: Picture) -> Iterator[str]:
    for durability, slow, size in results.settings(*THROUGHPUT):
        groups = [
            group
            for group in results.groups(*THROUGHPUT)
            if (group.durability, group.slow, group.body_bytes) == (durability, slow, size)
        ]
        yield f"### Messages a second: {setting_title(durability, slow, size)}\n"
        yield picture(throughput_name(durability, slow, size))
        yield rates(results, groups)
        yield details(
            "How many times as fast mq is, with the range",
            by_group(results, groups, lambda group, peer: ratio_cell(results, group, peer, RATE)),
        )
        if durability == "durable":
            yield details("Waits for the disk, a message", values(results, groups, SYNCS))
        yield details("Processor time, µs a message", values(results, groups, PROCESSOR))


def throughput_name(durability: Durability, slow: bool, size: int) -> str:
    return f"throughput-{durability}{'-slow' if slow else ''}-{size}"


def rates(results: Results, groups: list[Group]) -> str:
    """Rate and ratio in one cell: the ranges are in the plot and below."""

    def cell(group: Group, peer: str) -> str:
        figure, ratio = results.figure(group, peer, RATE), results.ratio(group, peer, RATE)
        if figure is None:
            return ranged(None)
        told = short(figure.median)
        return told if peer == OURS or ratio is None else f"{told} (×{short(ratio.median)})"

    return by_group(results, groups, cell)


def values(results: Results, groups: list[Group], metric: Metric) -> str:
    return by_group(results, groups, lambda group, peer: ranged(results.figure(group, peer, metric)))


def ratio_cell(results: Results, group: Group, peer: str, metric: Metric) -> str:
    return "" if peer == OURS else ranged(results.ratio(group, peer, metric), "×")


def by_group(results: Results, groups: list[Group], cell: Callable[[Group, str], str]) -> str:
    """A row for each peer, a column for each group."""
    head = ["", *(WORKLOADS[group.workload].title for group in groups)]
    peers = results.peers_of(*groups)

    def of(group: Group, peer: PeerInfo) -> str:
        return cell(group, peer.name) if results.of(group, peer.name) else ""

    return table(head, [[name_of(peer), *(of(group, peer) for group in groups)] for peer in peers])


def latencies(results: Results, picture: Picture) -> Iterator[str]:
    groups = results.groups(*LATENCY)
    for durability, slow, size in results.settings(*LATENCY):
        here = [
            group
            for group in groups
            if (group.durability, group.slow, group.body_bytes) == (durability, slow, size)
        ]
        yield f"### Latency: {setting_title(durability, slow, size)}\n"
        yield picture(latency_name(durability, slow, size))
        head = [""]
        for group in here:
            workload = WORKLOADS[group.workload]
            head += [f"{workload.title}, {each.title}, {each.unit}" for each in workload.metrics]
        rows = []
        for peer in results.peers_of(*here):
            row = [name_of(peer)]
            for group in here:
                there = results.of(group, peer.name)
                row += [
                    ranged(results.figure(group, peer.name, metric)) if there else ""
                    for metric in WORKLOADS[group.workload].metrics
                ]
            rows.append(row)
        yield table(head, rows)


def latency_name(durability: Durability, slow: bool, size: int) -> str:
    """There is one size of bodies only."""
    return f"latency-{durability}{'-slow' if slow else ''}"


def openings(results: Results, picture: Picture) -> Iterator[str]:
    groups = results.groups(REOPEN)
    if not groups:
        return
    yield "### Opening a store with messages that wait\n"
    yield picture("recovery")
    for group in reversed(groups):
        head = [f"{group.messages:,}", *(f"{each.title}, {each.unit}" for each in reopening.METRICS)]
        rows = [
            [
                name_of(peer),
                *(ranged(results.figure(group, peer.name, metric)) for metric in reopening.METRICS),
            ]
            for peer in results.peers_of(group)
        ]
        text = table(head, rows)
        yield text if group is groups[-1] else details(f"{group.messages:,} messages", text)


def growth(results: Results, picture: Picture) -> Iterator[str]:
    groups = results.groups(*GROWTH)
    if not groups:
        return
    yield "### When there is more of it\n"
    yield picture("growth")
    yield "µs for each operation, from the smallest to the largest; × is the dearest point, of the first.\n"
    for group in groups:
        rows = []
        for peer in results.peers_of(group):
            row, upto = [name_of(peer)], 0.0
            for metric in growing.METRICS:
                points = results.line(group, peer.name, metric.name)
                most = results.figure(group, peer.name, metric)
                if not points or not most:
                    row.append(ranged(None))
                    continue
                upto = points[-1][0]
                first, last = (short(points[index][1].median * 1e6) for index in (0, -1))
                row.append(f"{first} → {last} (×{short(most.median)})")
            rows.append([*row, f"{upto:,.0f}"])
        title = WORKLOADS[group.workload].title
        yield table([title, *growing.OPERATIONS, "up to"], rows)


def cleaning(results: Results, picture: Picture) -> Iterator[str]:
    for group in results.groups(CLEANING):
        metrics = WORKLOADS[CLEANING].metrics
        through = group.messages * group.body_bytes >> 20
        yield f"### The disk while {through:,} MiB go through, of which 1 MiB waits\n"
        yield picture("disk")
        head = ["", *(f"{metric.title}, {metric.unit}" for metric in metrics)]
        rows = [
            [name_of(peer), *(ranged(results.figure(group, peer.name, metric)) for metric in metrics)]
            for peer in results.peers_of(group)
        ]
        yield table(head, rows)


def promises(peers: Sequence[PeerInfo]) -> str:
    head = [
        "", "version", "on the disk when a publish returns", "`kill -9` loses", "a power cut loses",
        "several processes", "a message whose receiver dies comes back",
    ]  # fmt: skip
    rows = [
        [
            name_of(peer),
            peer.version,
            peer.on_return,
            peer.killed,
            peer.power,
            peer.processes,
            peer.redelivery,
        ]
        for peer in peers
    ]
    return "### What each of them promises\n\n" + table(head, rows, words=True)


def remarks(results: Results) -> Iterator[str]:
    lines = [f"- {name} was left out: {why}." for name, why in results.left_out.items()]
    for (group, peer), why in results.failures().items():
        where = (
            f"{group.workload}, {setting_title(*group[2:4], group.body_bytes)}, {group.messages:,} messages"
        )
        lines.append(f"- {peer} has no figure for {where}: {why}.")
    if lines:
        yield "### What is not there\n\n" + "\n".join(lines) + "\n"
