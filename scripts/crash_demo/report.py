"""Report: the table, a row for each round, and the verdict."""

from __future__ import annotations

from audit import Audit, Row

HEADS = (
    "round", "killed", "published", "acked", "recovered", "delivered", "redelivered", "lost", "altered",
    "recovery",
)  # fmt: skip


def report(rows: list[Row], audit: Audit) -> bool:
    """Print everything; whether all promises were kept."""
    print_table(rows)
    print(
        "\npublished, acked: noted by the process before it was killed.  recovered: in the store when it was"
        "\nopened again; recovery is the time that took.  redelivered: taken, not acked before the kill."
    )
    if audit.unnoted:
        print(
            f"\n{len(audit.unnoted)} more were stored by a publisher that was killed before it could note it."
            "\nTheir lines were published again, as by one that cannot know."
        )
    # After the last round every message that was published must have been delivered and acked.
    lost = audit.lost | (audit.published.keys() - audit.settled)
    kept = not (lost or rows[-1].recovered or any(row.violations for row in rows))
    print(
        f"\n{len(audit.published) + len(audit.unnoted):,} messages, {sum(row.killed for row in rows)} kills:"
        f"  lost {len(lost)}, altered {len(audit.altered)}, invented {max(row.invented for row in rows)},"
        f" acked and back {len(audit.revived)}, out of order {sum(row.disordered for row in rows)},"
        f" left over {rows[-1].recovered}"
    )
    print("Nothing was lost, nothing was altered." if kept else "THE PROMISES WERE BROKEN.")
    return kept


def print_table(rows: list[Row]) -> None:
    body = [(row.name, "SIGKILL" if row.killed else "-", *numbers(row)) for row in rows]
    sums = [f"{sum(column):,}" for column in zip(*map(counts, rows), strict=True)]
    sums[2] = ""  # what was in the store at different times does not add up
    kills = f"{sum(row.killed for row in rows)} kills"
    longest = f"≤ {max(row.recovery_seconds for row in rows) * 1000:.1f} ms"
    table = [HEADS, *body, ("total", kills, *sums, longest)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for index, row_texts in enumerate(table):
        if index in (1, len(table) - 1):
            print("  ".join("─" * width for width in widths))
        cells = [
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row_texts, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def counts(row: Row) -> tuple[int, ...]:
    return row.published, row.acked, row.recovered, row.delivered, row.redelivered, row.lost, row.altered


def numbers(row: Row) -> list[str]:
    return [*(f"{count:,}" for count in counts(row)), f"{row.recovery_seconds * 1000:.1f} ms"]
