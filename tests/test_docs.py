"""The site of `docs/` builds without network and loads nothing from outside."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?:)?//(?!127\.0\.0\.1)[^\"]+\""
)


def build(site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_builds_strictly_and_loads_nothing_from_outside(tmp_path):
    built = build(tmp_path / "site")
    assert built.returncode == 0, built.stdout + built.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 3
    outside = {
        page.name: match[0]
        for page in pages
        for match in LOADED.finditer(page.read_text())
        if 'rel="canonical"' not in match[0]
    }
    assert outside == {}


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == named
