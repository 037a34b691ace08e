"""Reports by cron: each tick is one message, however many processes have the store open.

If no process runs at that time, the tick comes when one starts: `missed="one"` is the default.  The worker
writes the report of a day into the file of that day, so a tick that is delivered twice writes the same file
again.

Prints:

    sales: next on day 1 of a month, at 07:00 in Berlin
    uptime: report 1
    uptime: report 2
    uptime: report 3
    schedules left: sales
"""

import sys
import tempfile
from pathlib import Path
from zoneinfo import ZoneInfo

import mq

BERLIN = "Europe/Berlin"


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        reports = broker.queue("reports", type=str)
        # Durable; a program declares its schedules whenever it starts, and nothing changes if nothing did.
        broker.schedule("sales", reports, "sales", cron="0 7 1 * *", tz=BERLIN)
        broker.schedule("uptime", reports, "uptime", every=0.2, missed="skip")

        [sales, _] = broker.schedules()
        local = sales.next_at.astimezone(ZoneInfo(BERLIN))
        print(f"{sales.name}: next on day {local.day} of a month, at {local:%H:%M} in Berlin")

        for number in range(1, 4):
            with reports.receive() as tick:
                path = directory / f"{tick.body}-{tick.created_at:%Y-%m-%d}.txt"
                path.write_text(f"up at {tick.created_at:%H:%M:%S}\n")
                print(f"{tick.body}: report {number}")

        broker.unschedule("uptime")
        reports.purge()  # a tick may have come meanwhile
        print("schedules left:", *(schedule.name for schedule in broker.schedules()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
