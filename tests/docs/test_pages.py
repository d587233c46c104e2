"""Every file, statement and command that the README and the documentation show works as it stands."""

import os
import pathlib
import shlex
import subprocess
import sys

import docs_helpers
import pytest
from docs_helpers import FENCE, LANGUAGES, OUTCOME, adapted, blocks, commands
from helpers import ROOT
from run_helpers import environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_BLOCKS = [page for page in PAGES if blocks(page)]


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> dict[pathlib.Path, str]:
    """What went wrong on each page that is asked for, "" if nothing; one process follows them all."""
    items = [item for item in request.session.items if "outcomes" in item.fixturenames]
    pages = list(dict.fromkeys(item.callspec.params["page"] for item in items))
    folder = tmp_path_factory.mktemp("pages")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, docs_helpers.__file__, folder, *pages],
        env=environment(1, PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    log = done.stdout + done.stderr
    (folder / "log.txt").write_text(log)
    assert done.returncode == 0, log
    problems = [(folder / str(i) / OUTCOME).read_text() for i in range(len(pages))]
    return {page: text and text + log for page, text in zip(pages, problems, strict=True)}


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_a_page_can_be_followed_word_for_word(page, outcomes):
    assert not outcomes[page], outcomes[page]


TPU_PLANS = sorted({line for page in PAGES for line in commands(page) if "--topology=v" in line})


@pytest.mark.slow
@pytest.mark.parametrize("line", TPU_PLANS)
def test_plans_for_tpus(line):
    """One layer instead of all; the full sizes are in scripts/bench/plan_table.py."""
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'scaling[tpu]'")
    words = [sys.executable, *adapted(shlex.split(line))[1:]]
    done = subprocess.run(words, cwd=ROOT, env=environment(1), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FITS" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page):
    text = page.read_text("utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a fence that is not understood"
    assert {block.language for block in blocks(page)} <= set(LANGUAGES)
