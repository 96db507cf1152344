from pathlib import Path

import pytest
from jinja2 import UndefinedError

from flows.reporting import templates
from flows.reporting.templates import template

FOLDER = Path(templates.__file__).parent
PARTS = ("base.html", "shared.html")
PAGES = sorted(path.name for path in FOLDER.glob("*.html") if path.name not in PARTS)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_grows_from_the_base_which_takes_the_style_once(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert text.startswith('{% extends "base.html" %}\n')
    assert "style.css" not in text
    assert (FOLDER / "base.html").read_text().count('<style>\n{% include "style.css" %}\n') == 1


def test_the_style_is_taken_as_it_is_and_values_are_escaped() -> None:
    environment = template(PAGES[0], filters={"twice": lambda text: 2 * text}).environment
    page = environment.from_string('<style>\n{% include "style.css" %}\n</style>{{ name | twice }}')
    assert page.render(name="<") == f"<style>\n{(FOLDER / 'style.css').read_text()}</style>&lt;&lt;"
    with pytest.raises(UndefinedError, match="name"):
        page.render()
