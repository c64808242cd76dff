"""The site of docs/: it builds without warnings, loads nothing from the network, and all its Markdown is rendered.

The strict build itself refuses dead links, missing headings, pages beside the navigation, and links out of docs/.
"""

import ast
import html.parser
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

PAGES = sorted((ROOT / "docs").glob("*.md"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOT_LOADED = {"canonical", "prev", "next"}  # relations of a <link> that browsers do not fetch


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # as in the Makefile
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """Collects the addresses that a browser fetches to show a page: scripts, styles, icons, images, frames."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "link" and attrs.get("rel") not in NOT_LOADED:
            self.addresses.append(attrs["href"])
        self.addresses += [attrs[name] for name in ("src", "srcset", "poster", "data") if name in attrs]


def test_the_parser_finds_each_kind_of_address():
    page = (
        '<link rel="stylesheet" href="a"><link rel="preconnect" href="b"><link rel="next" href="no">'
        '<script src="c"></script><img src="d"><a href="no">no</a><iframe src="e"></iframe>'
    )
    assert Loaded(page).addresses == ["a", "b", "c", "d", "e"]


def test_pages_load_files_of_the_site_only(site):
    pages = [site / path.with_suffix(".html").name for path in PAGES]
    for page in pages:
        addresses = Loaded(page.read_text()).addresses
        assert len(addresses) > 5
        # a file that is there is not of another host: //host/x and https://host/x are not such paths
        assert [found for found in addresses if not (site / found.partition("?")[0]).is_file()] == [], page.name


def test_styles_load_nothing_from_other_hosts(site):
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert len(styles) > 1
    assert [found for text in styles for found in re.findall(r"url\(['\"]?(?:https?:)?//[^)]*|@import.*", text)] == []


def test_the_search_finds_every_page_without_a_server(site):
    index = json.loads((site / "search/search_index.js").read_text().removeprefix("var __index = "))
    assert {path.with_suffix(".html").name for path in PAGES} <= {entry["location"] for entry in index["docs"]}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_search_answers_in_a_browser(site, tmp_path):
    """On a file:// page, where Chromium starts no worker: docs/javascripts/iframe-worker.js."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000", "--dump-dom"]
    address = f"{(site / 'index.html').as_uri()}?q=reducing_gap"
    shown = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True).stdout
    assert re.search(r"[1-9]\d* matching documents?<", shown)
    assert 'href="data.html' in shown[shown.index("matching document") :]


def prose(path):
    """The lines of a page outside its code, without code spans."""
    text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_formulas_are_not_read_as_tags(path):
    """<u(f), w> outside a code span is a tag for a browser, which does not show it; &lt;u(f), w> is shown."""
    assert re.findall(r"<(?!br>|!-- |http)[a-zA-Z/!?][^|\n]*", prose(path)) == []


def test_lists_and_tables_are_rendered(site):
    """The site needs an empty line before them, 4 spaces before what belongs to an item, no pipe in a table's code."""
    left = {}
    for path in PAGES:
        page = (site / path.with_suffix(".html").name).read_text()
        lines = [line for text in re.findall(r"<p>(.*?)</p>", page, re.DOTALL) for line in text.splitlines()]
        left[path.name] = [line for line in lines if re.match(r"\s*([-*]|\d+\.) |\s*\|", line)]
        left[path.name] += re.findall(r"<td>.*\\\|.*", page)
    assert {name: lines for name, lines in left.items() if lines} == {}


@pytest.mark.parametrize("name", ["idea", "architecture"])
def test_the_figures_are_the_scripts(name):
    draw_figures = importlib.import_module("draw_figures")
    assert (ROOT / f"docs/images/{name}.svg").read_text() == draw_figures.FIGURES[name]().svg()


def test_the_drawing_of_the_data_flow_names_files_that_exist():
    text = (ROOT / "docs/images/architecture.svg").read_text()
    named = re.findall(r"[\w/]+\.py|\w+/\w*", "\n".join(re.findall(r">([^<]+)</text>", text)))
    assert len(named) > 12
    assert [name for name in named if not any((ROOT / top / name).exists() for top in ("", "scripts"))] == []


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def test_the_page_lists_every_file_and_folder_of_the_top_folders():
    """Each in the section of its folder; the first column has nothing else."""
    sections = dict(re.findall(r"^## `(\w+)/`\n(.*?)(?=^## |\Z)", ARCHITECTURE, re.MULTILINE | re.DOTALL))
    assert sections.keys() == {"datasets", "models", "utils", "scripts"}
    for folder, text in sections.items():
        first_cells = " ".join(re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE))
        mentioned = set(re.findall(r"`([\w./]+)`", text))
        there = {path.name + "/" * path.is_dir() for path in (ROOT / folder).iterdir()}
        wanted = {name for name in there if name.endswith((".py", "/")) and name not in ("__init__.py", "__pycache__/")}
        assert sorted(wanted - mentioned) == [], f"docs/architecture.md does not have these of {folder}/"
        listed = {name for name in re.findall(r"`([\w./]+)`", first_cells) if "*" not in name}
        assert sorted(listed - there) == [], f"docs/architecture.md has these, {folder}/ does not"


def test_the_page_shows_the_arrows_that_are_tested():
    source = ast.parse((ROOT / "tests/test_layering.py").read_text())
    arrows = next(
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "INNER_ARROWS"
    )
    wanted = {folder: others for folder, others in arrows.items() if others}
    rows = re.findall(r"^\| `(\w+/[\w/]+)` \| ((?:`[\w/]+`(?:, )?)+) \|$", ARCHITECTURE, re.MULTILINE)
    shown = {folder.replace("/", "."): set(re.findall(r"[\w/]+", cells)) for folder, cells in rows}
    assert {folder: {other.replace("/", ".") for other in others} for folder, others in shown.items()} == {
        folder: set(others) for folder, others in wanted.items()
    }
