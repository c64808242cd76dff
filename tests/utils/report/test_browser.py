"""The pages in a headless Chromium, if it is installed: no error, no request, sorting, width of a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report_runs import NAMES, make_run, random_predictions

from utils.report.comparison import compare
from utils.report.run_page import build_page
from utils.report.source import read_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.slow,
]

# before the page: collects errors; after it: the actions of a person, and their results
BEFORE = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(String(event.message || "a resource")), true);
addEventListener("securitypolicyviolation", (event) => problems.push("refused " + event.blockedURI));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
console.error = console.warn = (...words) => problems.push(words.join(" "));
</script>"""
AFTER = """<script>
const texts = (row) => [...row.cells].map((cell) => cell.innerText.trim());
const rows = () => [...document.querySelectorAll("#table tbody tr")].map(texts);
const buttons = () => [...document.querySelectorAll("#table thead button")];
const click = (title) => buttons().find((button) => button.innerText === title).click();
const found = { problems, start: rows(), range: byId("range").textContent, tips: [] };
for (const title of TITLES) {
  click(title);
  found[title] = rows();
  click(title);
  found[title + " again"] = rows();
}
found.sorted = [...document.querySelectorAll("#table th[aria-sort]")].map((cell) => [cell.innerText, cell.ariaSort]);
byId("find").value = "CLASS 3";
byId("find").dispatchEvent(new Event("input"));
found.filtered = rows();
byId("find").value = "";
byId("find").dispatchEvent(new Event("input"));
byId("next").click();
found.second = byId("range").textContent;
const colour = () => getComputedStyle(document.body).backgroundColor;
found.colours = [colour()];
byId("theme").click();
found.colours.push(colour());
for (const chart of document.querySelectorAll(".chart svg")) {
  const box = chart.getBoundingClientRect();
  const middle = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
  chart.dispatchEvent(new PointerEvent("pointermove", middle));
  if (!byId("tip").hidden) found.tips.push(byId("tip").textContent);
  chart.dispatchEvent(new PointerEvent("pointerleave", middle));
}
const boxes = [...document.querySelectorAll(".chart")];
found.charts = boxes.map((box) => [box.dataset.chart, box.querySelectorAll("svg *").length]);
found.width = [innerWidth, document.documentElement.scrollWidth];
const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
found.requests = requests.filter((name) => !name.startsWith("data:"));
parent.document.getElementById("found").textContent = JSON.stringify(found);
</script>"""
# a window has at least 500 pixels, a frame may have fewer
OUTER = (
    "<!DOCTYPE html><pre id='found'></pre><iframe style='width: {}px; height: 900px; border: 0' srcdoc='{}'></iframe>"
)


def browse(page: str, folder, titles, width=1280) -> dict:
    """The findings of the browser on a page of this width. titles: of the columns that are clicked, twice each."""
    page = page.replace("<head>", f"<head>{BEFORE}", 1)
    page = page.replace("</body>", f"{AFTER.replace('TITLES', json.dumps(titles))}</body>", 1)
    path = folder / "page.html"
    path.write_text(OUTER.format(width, html.escape(page)), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    options += ["--dump-dom", "--window-size=1400,1000", f"--user-data-dir={folder}/profile"]
    done = subprocess.run([CHROMIUM, *options, path.as_uri()], capture_output=True, timeout=60)
    dumped = re.search(r'<pre id="found">(.+?)</pre>', done.stdout.decode("utf-8"), re.DOTALL)
    assert dumped, done.stderr.decode()[-2000:]
    return json.loads(html.unescape(dumped[1]))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = make_run(tmp_path_factory.mktemp("runs") / "run", random_predictions(40, 6), NAMES[:40])
    rows = [{"step": step, "loss": 1 / step, "accuracy": step, "lr": 0.1} for step in range(5, 50, 5)]
    (run_dir.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


def column(rows, number):
    return [float(row[number].replace(",", "")) for row in rows if row[number] != "–"]


def test_a_report_on_a_phone(run_dir, tmp_path):
    run = read_run(run_dir)
    page = build_page(run, run.main)
    found = browse(page, tmp_path, ["accuracy", "class", "most often confused with"], width=390)
    assert found["problems"] == found["requests"] == []
    assert found["width"] == [390, 390]

    # sorting and filtering
    assert column(found["start"], 2) == sorted(column(found["start"], 2), reverse=True)
    accuracies = sorted(100 * run.main.classes.correct / run.main.classes.images)
    assert column(found["accuracy"], 4) == pytest.approx(accuracies[:10], abs=0.005)
    assert column(found["accuracy again"], 4) == pytest.approx(accuracies[:-11:-1], abs=0.005)
    assert [row[0] for row in found["class"]] == NAMES[:10]  # by number, not by letter
    assert [row[0] for row in found["class again"]] == NAMES[39:29:-1]
    assert found["sorted"] == [["most often confused with", "ascending"]]
    assert {row[0] for row in found["filtered"]} < {"class 3", *NAMES[30:40]}  # ten of eleven
    assert len(found["filtered"]) == 10
    assert (found["range"], found["second"]) == ("1 – 10 of 40", "11 – 20 of 40")

    # charts and theme
    drawn = dict(found["charts"])
    assert drawn.keys() == {"loss", "accuracy", "lr", "tail", "size", "matrix", "reliability", "coverage"}
    assert min(drawn.values()) > 5
    assert drawn["matrix"] > 40 * 40
    assert len(found["tips"]) >= 7
    assert len(set(found["colours"])) == 2


def test_a_comparison(run_dir, tmp_path):
    other = make_run(tmp_path / "other", random_predictions(40, 6, seed=1, skill=3), NAMES[:40])
    runs = [read_run(run_dir), read_run(other)]
    found = browse(compare(runs), tmp_path, ["difference", "p"], width=390)
    assert found["problems"] == found["requests"] == []
    assert found["width"] == [390, 390]
    shares = [100 * run.main.classes.correct / run.main.classes.images for run in runs]
    differences = sorted(shares[1] - shares[0])
    assert column(found["difference"], 6) == pytest.approx(differences[:10], abs=0.005)
    assert column(found["difference again"], 6) == pytest.approx(differences[:-11:-1], abs=0.005)
    assert column(found["p"], 8) == sorted(column(found["p"], 8))
    assert {name for name, parts in found["charts"] if parts > 5} == {"groups", "differences"}


def test_a_page_of_all_species_opens_soon(tmp_path):
    run = read_run(make_run(tmp_path / "run", random_predictions(8142 // 8, 3), NAMES[: 8142 // 8]))
    page = build_page(run, run.main)
    data = re.search(r'id="data">(.*?)</script>', page)[1]
    content = json.loads(data)
    for name, values in content["classes"].items():  # eight times the number of predicted classes
        content["classes"][name] = [f"{value} {k}" if name == "name" else value for k in range(8) for value in values]
    found = browse(page.replace(data, json.dumps(content).replace("<", "\\u003c")), tmp_path, ["F1"])
    assert found["problems"] == []
    assert found["range"].endswith(f"of {8 * (8142 // 8):,}")


def test_the_checks_of_this_file_can_fail(run_dir, tmp_path):
    """A page with an error, a request and a wide element."""
    run = read_run(run_dir)
    wide = "<img src='http://127.0.0.1:9/x.png'><div style='width: 900px'>wide</div><script>missing();</script>"
    page = build_page(run, run.main).replace("<footer>", f"{wide}<footer>")
    found = browse(page, tmp_path, ["class"], width=390)
    assert any("missing" in problem for problem in found["problems"])
    assert any("127.0.0.1" in problem for problem in found["problems"])
    assert found["width"][1] > 390
