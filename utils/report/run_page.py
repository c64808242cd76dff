"""The page of a run, or of one of its tests."""

from typing import Any

from utils.errors import DataError
from utils.predictions import Predictions
from utils.report import charts, findings, page, pictures, tables
from utils.report.pictures import Thumbnails, no_thumbnails
from utils.report.source import Run, Test, read_curves
from utils.run.record import ACCURACIES
from utils.text import visible

SCRIPTS = ("charts.js", "table.js", "report.js")
ADJUSTING = ("LA", "BS", "LADE")  # losses that add the classes' log prior to the logits
FEW_IMAGES = 5  # test images; the accuracy of a class with fewer is not reliable
SMOOTH_FROM = 30  # classes; from this number on a mean over neighbours is drawn
COVERED = (100, 95, 90, 80, 70, 50)  # percent, the lines of the table of coverage


def build_page(run: Run, test: Test, thumbnails: Thumbnails = no_thumbnails) -> str:
    """The page of one test of a run."""
    # ---- files ----
    notes = list(run.notes)
    predictions: Predictions | None = None
    try:
        predictions = test.predictions()
    except DataError as error:
        notes.append(f"Confusions, confidence and pictures are missing: {error}.")
    if run.directory.adjustment.exists():
        notes.append(f"All numbers are of the unadjusted logits, without the run's {run.directory.adjustment.name}.")

    # ---- content, and the data of its charts ----
    kind = "Training report" if test is run.main else "Test report"
    content = _head(run, test) | {"kind": kind, "findings": findings.sentences(test, predictions)}
    data: charts.Json = {"classes": charts.class_columns(test.classes, predictions)}
    sections = [_curves(run, test), _tail(test), _predictions(test, predictions, thumbnails)]
    for section_content, section_data in sections:
        content |= section_content
        data |= section_data
    content |= {"doubtful": _doubtful(run, thumbnails), "notes": notes}
    return page.render("report.html", SCRIPTS, data, **content)


# ---- sections: content for the template, and data for the script ----

Section = tuple[dict[str, Any], charts.Json]


def _head(run: Run, test: Test) -> dict[str, Any]:
    rows = tables.accuracy_rows(run.tests, test)
    return {
        "title": visible(tables.title_of(test)),
        "subtitle": visible(tables.subtitle(test)),
        "titles": ACCURACIES,
        "rows": rows,
        "row": next(row for row in rows if row.is_shown),
        "any_published": any(row.published is not None for row in rows),
        "more": tables.more_scores(test),
        "facts": tables.facts(test),
        "command": visible(test.result.command),
        "folder": visible(run.directory.path.resolve().name),
    }


def _curves(run: Run, test: Test) -> Section:
    epochs, loss = test.content.get("epochs"), test.result.settings.get("loss_type")
    curves = charts.curves(read_curves(run.directory.metrics), epochs if isinstance(epochs, int) else 0)
    has_curves = any(curves[chart] for chart in ("loss", "accuracy", "lr"))
    content = {"has_curves": has_curves, "loss": loss, "adjusts": loss in ADJUSTING}
    return content, {"curves": curves} if has_curves else {}


def _tail(test: Test) -> Section:
    smooth = len(test.classes) > SMOOTH_FROM
    return {"smooth": smooth, "small_classes": findings.small_classes(test.classes, FEW_IMAGES)}, {"smooth": smooth}


def _predictions(test: Test, predictions: Predictions | None, thumbnails: Thumbnails) -> Section:
    """Confusions, confidence and pictures."""
    if predictions is None:
        return {"has_predictions": False}, {}
    matrix = charts.confusion(test.classes, predictions)
    bins, coverage = charts.reliability(predictions), charts.coverage_of(predictions)
    content = {
        "has_predictions": True,
        "block": len(matrix["classes"]),
        "whole_matrix": len(test.classes) <= charts.WHOLE_MATRIX,
        "groups": charts.group_shares(test.classes, predictions),
        "calibration": findings.calibration(bins),
        "coverage": charts.coverage_lines(coverage, len(predictions.labels), COVERED),
        "mistakes": pictures.tiles(test, predictions, pictures.mistakes(predictions), thumbnails),
        "hits": pictures.tiles(test, predictions, pictures.hits(predictions), thumbnails),
        "has_thumbnails": thumbnails(test.images, []) is not None,
    }
    data = {"bins": charts.bin_columns(bins), "coverage": charts.coverage_points(coverage)}
    return content, data | ({"confusion": matrix} if matrix["classes"] else {})


def _doubtful(run: Run, thumbnails: Thumbnails) -> dict | None:
    """The section about labels of training images; None without predictions for them, or without doubtful labels."""
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
