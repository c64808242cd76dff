"""The report of a run: report.html, a self-contained page generated from the files in the run directory.

source.py      reads results, predictions and curves
measures.py    the numbers: precision, confusions, intervals, coverage, doubtful labels
tables.py      the head: accuracies with their uncertainty, facts of the training
findings.py    the findings in words
charts.py      the numbers behind charts and tables, for the page's script
pictures.py    single images, as thumbnails
run_page.py    the page of a run or of a test; comparison.py: several runs side by side
page.py        from content to HTML, by templates/
"""

from pathlib import Path

from utils.files import write_text
from utils.report.pictures import Thumbnails, no_thumbnails
from utils.report.run_page import build_page
from utils.report.source import read_run
from utils.run.directory import RunDir

__all__ = ["main_images", "write_report"]


def write_report(run_dir: RunDir, tested: Path | None = None, thumbnails: Thumbnails = no_thumbnails) -> Path:
    """Writes the page of a test, report_SUFFIX.html, or without `tested` that of the run, report.html; its path.

    tested: the results file of the test. The page of a run shows its own test, or if it has none the newest one.
    Raises a DataError for missing or damaged results.
    """
    run = read_run(run_dir)
    test = run.find(tested) if tested else run.main
    path = run_dir.path / f"report{test.suffix}.html" if tested else run_dir.report()
    write_text(path, build_page(run, test, thumbnails))
    return path


def main_images(run_dir: RunDir) -> str:
    """The fingerprint of the images that the page of the run shows. Raises a DataError."""
    return read_run(run_dir).main.images
