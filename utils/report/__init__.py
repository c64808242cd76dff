"""The report of a run: report.html, a page of one file that is a view of the files in the run directory.

source.py      reads results, predictions and curves
measures.py    the numbers: precision, confusions, intervals, coverage, doubtful labels
tables.py      the head: what was trained, accuracies with their uncertainty
findings.py    the findings in words
charts.py      the numbers behind charts and tables, for the page's script
pictures.py    single images, as thumbnails
page.py        the page, from templates/
comparison.py  several runs beside one another
"""

from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.files import write_text
from utils.predictions import Predictions
from utils.report import charts, findings, page, pictures, tables
from utils.report.pictures import Thumbnails, no_thumbnails
from utils.report.source import Run, Test, read_curves, read_run
from utils.run.directory import RunDir
from utils.run.record import ACCURACIES
from utils.text import visible

SCRIPTS = ("charts.js", "table.js", "report.js")
ADJUSTING = ("LA", "BS", "LADE")  # losses that add the classes' log prior to the logits
FEW_IMAGES = 5  # a class with fewer test images says little
SMOOTH_FROM = 30  # classes, from which a mean over neighbours is drawn
COVERED = (100, 95, 90, 80, 70, 50)  # percent, the lines of the table of coverage


def write_report(run_dir: RunDir, tested: Path | None = None, thumbnails: Thumbnails = no_thumbnails) -> Path:
    """Writes the page of a test, report_SUFFIX.html, or without `tested` that of the run, report.html; its path.

    tested: the results file of the test. The page of a run shows its own test, or where the directory has none the
    newest one. Raises a DataError for missing or damaged results.
    """
    run = read_run(run_dir)
    test = run.find(tested) if tested else run.main
    path = run_dir.path / f"report{test.suffix}.html" if tested else run_dir.report()
    write_text(path, build_page(run, test, thumbnails))
    return path


def main_images(run_dir: RunDir) -> str:
    """The fingerprint of the images that the page of the run shows. Raises a DataError."""
    return read_run(run_dir).main.images


def build_page(run: Run, test: Test, thumbnails: Thumbnails = no_thumbnails) -> str:
    """The page of one test of a run."""
    # ---- files ----
    notes = list(run.notes)
    predictions: Predictions | None = None
    try:
        predictions = test.predictions()
    except DataError as error:
        notes.append(f"Without confusions, confidence and pictures: {error}")
    numbers = read_curves(run.directory.metrics)
    epochs = test.content.get("epochs")
    curves = charts.curves(numbers, epochs if isinstance(epochs, int) else 0)
    has_curves = any(curves[chart] for chart in ("loss", "accuracy", "lr"))

    # ---- content ----
    classes, rows = test.classes, tables.accuracy_rows(run.tests, test)
    data: charts.Json = {
        "classes": charts.class_columns(classes, predictions),
        "smooth": len(classes) > SMOOTH_FROM,
        **({"curves": curves} if has_curves else {}),
    }
    content: dict[str, Any] = {
        "title": visible(tables.title_of(test)),
        "kind": "Test report" if test is not run.main else "Training report",
        "subtitle": visible(tables.subtitle(test)),
        "titles": ACCURACIES,
        "rows": rows,
        "row": next((row for row in rows if row.is_shown), None) or tables.accuracy_rows([test], test)[0],
        "any_published": any(row.published is not None for row in rows),
        "more": tables.more_scores(test),
        "facts": tables.facts(test),
        "command": visible(test.result.command),
        "findings": findings.sentences(test, predictions),
        "has_curves": has_curves,
        "loss": test.result.settings.get("loss_type"),
        "adjusts": test.result.settings.get("loss_type") in ADJUSTING,
        "smooth": data["smooth"],
        "small_classes": findings.small_classes(classes, FEW_IMAGES),
        "has_predictions": predictions is not None,
        "doubtful": _doubtful(run, thumbnails),
        "notes": notes,
        "folder": visible(run.directory.path.resolve().name),
    }
    if predictions is not None:
        data |= _confusions(test, predictions)
        data |= {"bins": charts.bin_columns(charts.reliability(predictions))}
        found = charts.coverage_of(predictions)
        data |= {"coverage": charts.coverage_points(found)}
        content |= {
            "has_matrix": bool(data["confusion"]),
            "whole_matrix": len(classes) <= charts.WHOLE_MATRIX,
            "block": len(data["confusion"]["classes"]) if data["confusion"] else 0,
            "groups": charts.group_shares(classes, predictions),
            "calibration": findings.calibration(charts.reliability(predictions)),
            "coverage": charts.coverage_lines(found, len(predictions.labels), COVERED),
            "mistakes": pictures.tiles(test, predictions, pictures.mistakes(predictions), thumbnails),
            "hits": pictures.tiles(test, predictions, pictures.hits(predictions), thumbnails),
            "has_thumbnails": thumbnails(test.images, []) is not None,
        }
    return page.render("report.html", SCRIPTS, data, **content)


def _confusions(test: Test, predictions: Predictions) -> charts.Json:
    found = charts.confusion(test.classes, predictions)
    return {"confusion": found if found["classes"] else None}


def _doubtful(run: Run, thumbnails: Thumbnails) -> dict | None:
    """The section about labels of training images; None without predictions for them, or without doubt."""
    found = run.training_predictions()
    if found is None:
        return None
    test, predictions = found
    indices = pictures.doubtful(predictions, len(test.classes))
    shown = indices[: pictures.DOUBTFUL]
    return {
        "sentence": findings.doubtful(len(indices), len(shown), len(predictions.labels)),
        "tiles": pictures.tiles(test, predictions, shown, thumbnails),
    }
