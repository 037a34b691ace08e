"""The public face, as type checkers see it: what is right is accepted, what is wrong is refused.

Right is also what a reader may copy: the code in README.md and docs/, and the programs in examples/.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from checkers import CHECKERS
from documents import EXAMPLES, PAGES, programs

TYPED = Path(__file__).parent / "typed"
UNTYPED = {"docs/celery.md", "docs/dramatiq.md", "docs/huey.md"}  # as are programs for these libraries


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_right_is_accepted_and_what_is_wrong_is_refused(checker: str, tmp_path: Path) -> None:
    """All in one run: most of its time goes to the library itself."""
    files = [TYPED / "right.py", TYPED / "wrong.py", *EXAMPLES]
    for page in ["README.md", *PAGES]:
        if page in UNTYPED:
            continue
        for number, program in enumerate(programs(page)):
            files.append(tmp_path / f"{Path(page).stem}_{number}.py")
            files[-1].write_text(program)
    wrong = (TYPED / "wrong.py").read_text().splitlines()
    marked = {("wrong.py", number) for number, line in enumerate(wrong, 1) if line.endswith("# wrong")}
    refused, said = CHECKERS[checker](files, tmp_path)
    assert marked and refused == marked, said
