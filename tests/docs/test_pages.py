"""Every file, statement and command that the documentation shows works as it stands there."""

import pytest
from docs_helpers import FENCE, LANGUAGES, Reader, blocks
from helpers import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_can_be_followed(page, tmp_path):
    Reader(tmp_path).follow(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_block_says_what_it_is(page):
    text = page.read_text("utf-8")
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a fence that is not understood"
    assert {block.language for block in blocks(page)} <= set(LANGUAGES)
