"""docs/semantics.md promises with examples; here they run, in their order, against a real daemon."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from tests.support.daemon import Daemons

DOCUMENT = Path(__file__).parent.parent / "docs" / "semantics.md"


def test_examples_of_the_semantics_hold():
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)
    daemons = Daemons()
    try:
        store = daemons.start().client()
        names = {"store": store}
        example = doctest.DocTestParser().get_doctest("\n".join(blocks), names, "semantics", str(DOCUMENT), 0)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(example, out=report.append)
    finally:
        daemons.close()
    results = runner.summarize(verbose=False)
    assert results.attempted >= 15, "the document has lost its examples"
    assert not results.failed, "".join(report)
