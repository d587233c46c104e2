"""Every file, statement and command that the README and the documentation show works as it stands."""

import os
import pathlib
import subprocess
import sys

import docs_helpers
import pytest
from docs_helpers import FENCE, LANGUAGES, OUTCOME, adapted, arguments, blocks, commands
from helpers import ROOT
from run_helpers import environment

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
WITH_BLOCKS = [page for page in PAGES if blocks(page)]
TPU_PLANS = {
    tuple(arguments(line)): line
    for page in reversed(PAGES)
    for line in commands(page)
    if "--topology=v" in line
}


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def follow(folder: pathlib.Path, everything: str, pages: list[pathlib.Path]) -> list[str]:
    """What went wrong on each page, "" if nothing."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, docs_helpers.__file__, folder, everything, *pages],
        env=environment(1, PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    log = done.stdout + done.stderr
    (folder / "log.txt").write_text(log)
    assert done.returncode == 0, log
    problems = [(folder / f"{OUTCOME}-{i}").read_text() for i in range(len(pages))]
    return [problem and problem + log for problem in problems]


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> dict[pathlib.Path, str]:
    """The outcome of each page that was asked for; one process follows them all."""
    items = [item for item in request.session.items if "outcomes" in item.fixturenames]
    pages = list(dict.fromkeys(item.callspec.params["page"] for item in items))
    problems = follow(tmp_path_factory.mktemp("pages"), "looked-at", pages)
    return dict(zip(pages, problems, strict=True))


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_a_page_can_be_followed_word_for_word(page, outcomes):
    assert not outcomes[page], outcomes[page]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_runs_of_all_pages(tmp_path):
    """Also those runs that nothing on their page looks at."""
    problems = follow(tmp_path, "everything", WITH_BLOCKS)
    assert not any(problems), "".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("line", TPU_PLANS.values())
def test_plans_for_tpus(line):
    """One layer instead of all; the full sizes are in scripts/bench/plan_table.py."""
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'scaling[tpu]'")
    module, *argv = arguments(line)
    done = subprocess.run(
        [sys.executable, "-m", module, *adapted(argv)],
        cwd=ROOT,
        env=environment(1),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FITS" in done.stdout or "fastest that fits" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page):
    text = page.read_text("utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a fence that is not understood"
    assert {block.language for block in blocks(page)} <= set(LANGUAGES)


def test_no_two_files_have_one_name():
    titles = [block.title for page in PAGES for block in blocks(page) if block.title]
    assert len(titles) == len(set(titles))


def test_the_new_axis_of_the_page_is_the_one_that_is_tested():
    page = (ROOT / "docs" / "howto" / "own-axis.md").read_text("utf-8")
    tested = (ROOT / "tests" / "parallel" / "test_new_axis.py").read_text("utf-8")
    for line in ('"expert": ("parameters",),', "expert: AxisSize = 1"):
        assert line in page
        assert line in tested
