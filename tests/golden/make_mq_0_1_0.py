"""How mq-0.1.0.tar.xz was made: mq as it was when format 1 had one revision and the page one version.

tests/test_versions.py lets processes of it and of this mq meet on one store.  An archive in the
tree, because a source distribution and a shallow clone have no history to take it from.

    python tests/golden/make_mq_0_1_0.py         in a clone that has the commit; the same bytes each time
"""

from __future__ import annotations

import io
import lzma
import subprocess
import tarfile
from pathlib import Path

COMMIT = "cd8164dbe93fb3e1ee6f6bac65cbe25f4ef8553e"
TARGET = Path(__file__).parent / "mq-0.1.0.tar.xz"


def main() -> None:
    command = ["git", "archive", "--format=tar", COMMIT, "mq"]
    commit = subprocess.run(command, check=True, capture_output=True).stdout
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(commit)) as sources,
        tarfile.open(fileobj=buffer, mode="w") as target,
    ):
        for member in sorted(sources.getmembers(), key=lambda each: each.name):
            if member.name.endswith(".py"):
                plain = tarfile.TarInfo(member.name)
                plain.size = member.size
                target.addfile(plain, sources.extractfile(member))
    TARGET.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
