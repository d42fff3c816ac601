"""The code of the how-tos about functions runs as it is printed."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.parametrize(
    "page", ["run-steps-side-by-side", "undo-part-of-a-saga", "answer-updates"]
)
def test_every_block_of_the_page_runs(page, tmp_path):
    """One after the other, as one module; a block that is not whole is shown and not run."""
    text = (PAGES / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    whole = [block for block in blocks if "    ...\n" not in block]
    assert len(whole) >= 2
    path = tmp_path / f"{page.replace('-', '_')}.py"
    path.write_text("\n\n".join(whole))
    spec = spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
