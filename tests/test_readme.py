"""What the README and the pages under docs/ show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import PAGES, ROOT, blocks, programs

import mq
from mq.api.options import SECONDS_MAX
from mq.delivery.state import QUEUES_MAX
from mq.engine.bodies import BODY_BYTES_MAX
from mq.storage.record import GROUP_BYTES_MAX

DOCUMENTS = [*sorted(path.name for path in ROOT.glob("*.md")), *PAGES, "examples/README.md"]
README = (ROOT / "README.md").read_text()
PROMISES = (ROOT / "docs/promises.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def run_python(source: str, directory: Path) -> str:
    """What it prints; the block runs as a stranger's program, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", source]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_example_runs_and_is_short(tmp_path: Path) -> None:
    example = blocks("python", README)[0]
    assert len(example.strip().splitlines()) <= 10
    assert run_python(example, tmp_path) == "to ada@example.org\n"
    with mq.open(tmp_path / "data", read_only=True) as broker:
        assert broker.queue("mail").stats().acked == 1


def test_a_worker_survives_a_handler_that_raises(tmp_path: Path) -> None:
    dead = "dead: {'amount': -1} ValueError: the amount is negative\n"
    assert run_python(blocks("python", README)[1], tmp_path) == f"paid 5\npaid 7\n{dead}"


@pytest.mark.parametrize("document", ["README.md", *PAGES])
def test_the_other_examples_run(document: str, tmp_path: Path) -> None:
    """Each in a directory of its own: what one leaves in a queue, the next may wait for."""
    examples = programs(document)
    for number, example in enumerate(examples[2:] if document == "README.md" else examples):
        (tmp_path / str(number)).mkdir()
        assert run_python(example, tmp_path / str(number))


@pytest.mark.parametrize("document", ["README.md", *PAGES])
def test_every_command_shown_runs_and_prints_what_is_shown(document: str, tmp_path: Path) -> None:
    """The console blocks of a page are one session: what follows `$` is run, and `…` stands for anything."""
    bin = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    environment.pop("MQ_STORE", None)
    sessions = blocks("console", (ROOT / document).read_text())
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(sessions), re.MULTILINE):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        printed = (done.stdout + done.stderr).rstrip()
        assert done.returncode == 0, f"{command}: {printed}"
        pattern = re.sub(r"(\\ )+", r"\\s+", re.escape(shown.rstrip())).replace("…", ".*")
        assert re.fullmatch(pattern, printed, re.DOTALL), printed


def test_the_examples_of_the_command_line_and_of_the_library_go_together(tmp_path: Path) -> None:
    """What the first line of `mq --help` publishes, the first example of the README takes."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MQ_STORE", None)

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    examples = [
        line.split("   ")[0] for line in re.findall(r"^ +(mq \w+.*)$", run("mq --help"), re.MULTILINE)
    ]
    publish, receive, queues = examples
    assert publish in (line.strip() for line in run("mq publish --help").splitlines())
    run(publish)
    assert run_python(blocks("python", README)[0], tmp_path) == "to ada@example.org\n" * 2
    run(publish)
    assert run(receive) == '{"to":"ada@example.org"}\n'
    assert run(queues).splitlines()[1].split()[:2] == ["mail", "0"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """To files that are there, and to headings of the same page."""
    text = (ROOT / document).read_text()
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif "://" not in target:
            assert (ROOT / document).parent.joinpath(target.partition("#")[0]).exists(), target


def test_every_file_of_the_library_has_its_place_in_the_architecture() -> None:
    """The commands by their names alone."""
    floors = blocks("text", ARCHITECTURE)[0]
    for path in (ROOT / "mq").rglob("[!_]*.py"):
        is_command = path.parent.name == "cli" and re.search(rf"\b{path.stem}[,)]", floors)
        assert is_command or re.search(rf"\b{path.name}\b", floors), path


def test_what_is_named_as_a_test_is_one() -> None:
    """Tests by their names, planted bugs by theirs; files in other pages are links, looked at above."""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = re.findall(r"`(test_\w+)`", ARCHITECTURE)
    bugs = [bug for line in re.findall(r"planted: (.*) \|$", ARCHITECTURE, re.M) for bug in line.split(", ")]
    assert len(named) > 10 and len(bugs) > 3
    assert [name for name in named if f"def {name}(" not in tests] == []
    assert [bug for bug in bugs if f"Bug({bug}" not in tests] == []
    assert "Over 180 bugs planted" in PROMISES and len(re.findall(r"^    Bug\(", tests, re.MULTILINE)) > 180
    for path in re.findall(r"`(tests/[\w/.]+)`", ARCHITECTURE):
        assert (ROOT / path).exists(), path


def test_what_is_named_beside_a_file_is_in_it() -> None:
    """As in "`queue.py`: `publish`, `ack`": functions, classes, constants of the library."""
    sources = {f"/{path.relative_to(ROOT)}": path.read_text() for path in (ROOT / "mq").rglob("*.py")}
    named = re.findall(r"`([\w/]+\.py)`:? (`\w+`(?:, `\w+`)*)", ARCHITECTURE)
    assert len(named) > 10
    for file, names in named:
        texts = [text for path, text in sources.items() if path.endswith(f"/{file}")]
        assert texts, file
        for name in re.findall(r"\w+", names):
            defined = re.compile(rf"^ *(def|class) {name}\b|^{name}\b", re.MULTILINE)
            assert any(map(defined.search, texts)), f"{file}: {name}"


def test_the_limits_are_those_of_the_code() -> None:
    assert BODY_BYTES_MAX == 64 << 20 and "at most 64 MiB" in README
    assert GROUP_BYTES_MAX == 256 << 20 and "`publish_many` 256 MiB" in README
    assert QUEUES_MAX == 65_535 and "65,535 queues" in README
    assert SECONDS_MAX == 10 * 366 * 86_400 and "at most ten years" in README


@pytest.mark.parametrize(
    "script", ["scripts/demo", "scripts/test", "scripts/check", "scripts/crash", "scripts/cluster"]
)
def test_the_scripts_tell_what_they_do(script: str, tmp_path: Path) -> None:
    """From anywhere, and without installing anything."""
    environment = {**os.environ, "MQ_VENV": str(tmp_path / "venv")}
    command = [ROOT / script, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: {script}" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "script", ["scripts/demo", "scripts/test", "scripts/check", "scripts/crash", "scripts/cluster"]
)
def test_an_old_python_is_refused_in_one_line(script: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("#!/bin/sh\n[ $1 = --version ] && echo Python 3.9.2 || exit 1\n")
    (tmp_path / "old").chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(tmp_path / "old"),
        "MQ_VENV": str(tmp_path / "venv"),
    }
    done = subprocess.run([ROOT / script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr and "Python 3.9.2" in done.stderr
    assert not (tmp_path / "venv").exists()
