from pathlib import Path

from inferstack_policies.page import page


def test_the_page_lists_the_rules_as_they_are() -> None:
    assert (Path(__file__).parents[2] / "docs/policies.md").read_text(encoding="utf-8") == page()
