"""The numbers of a report against scikit-learn, torchmetrics and scipy, and against their definitions."""

import numpy as np
import pytest
import torch
from report_runs import random_predictions
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from utils.metrics import confidence_bins
from utils.report import charts, measures

CLASSES = 12


@pytest.fixture(scope="module")
def predictions():
    return random_predictions(CLASSES, 40)


def test_precision_and_f1_are_scikit_learns(predictions):
    found = measures.retrieval(predictions.labels, predictions.predicted, CLASSES)
    precision, _, f1, _ = sk.precision_recall_fscore_support(predictions.labels, predictions.predicted)
    np.testing.assert_allclose(found.precision, 100 * precision, rtol=1e-12)
    np.testing.assert_allclose(found.f1, 100 * f1, rtol=1e-12)


def test_precision_of_a_class_that_is_never_predicted_is_undefined():
    found = measures.retrieval(np.array([0, 1]), np.array([0, 0]), 3)
    assert np.isnan(found.precision).tolist() == [False, True, True]
    assert found.f1[:2] == pytest.approx([200 / 3, 0])
    assert np.isnan(found.f1[2])


def test_confusions_are_the_confusion_matrix(predictions):
    labels, predicted = predictions.labels, predictions.predicted
    matrix = sk.confusion_matrix(labels, predicted)
    pairs = measures.confusions(labels, predicted, CLASSES)
    rebuilt = np.zeros_like(matrix)
    rebuilt[pairs.labels, pairs.predicted] = pairs.counts
    assert (rebuilt == matrix - np.diag(np.diag(matrix))).all()
    assert (np.diff(pairs.counts) <= 0).all()
    others, counts = measures.most_frequent_confusion(pairs, CLASSES)
    assert (counts == rebuilt.max(1)).all()
    assert (others == rebuilt.argmax(1)).all()  # the first of equal ones, too
    chosen = [7, 2, 5]
    block = measures.confusion_matrix(labels, predicted, chosen, CLASSES)
    assert (block == matrix[np.ix_(chosen, chosen)]).all()


def test_a_class_that_is_never_confused_has_no_confusion():
    pairs = measures.confusions(np.array([0, 1, 1]), np.array([0, 2, 2]), 3)
    others, counts = measures.most_frequent_confusion(pairs, 3)
    assert (others.tolist(), counts.tolist()) == ([-1, 2, -1], [0, 2, 0])


def test_the_most_confused_classes_are_whole_pairs():
    labels, predicted = np.array([4, 4, 4, 1, 1, 0]), np.array([3, 3, 3, 4, 4, 2])
    pairs = measures.confusions(labels, predicted, 5)
    assert measures.most_confused_classes(pairs, 4) == [4, 3, 1]  # with another pair they would be five
    assert measures.most_confused_classes(pairs, 2) == [4, 3]
    assert measures.most_confused_classes(measures.confusions(labels, labels, 5), 5) == []


def test_group_confusions_against_a_loop(predictions):
    group = np.arange(CLASSES) % 3
    found = measures.group_confusions(predictions.labels, predictions.predicted, group, 3)
    expected = np.zeros((3, 4), int)
    for label, predicted in zip(predictions.labels, predictions.predicted, strict=True):
        expected[group[label], 0 if label == predicted else 1 + group[predicted]] += 1
    assert (found == expected).all()


# ---- uncertainty ----


def test_the_standard_error_is_that_of_a_mean():
    correct = np.array([1] * 70 + [0] * 30)
    assert measures.standard_error(70, 100) == pytest.approx(100 * correct.std() / 10)


def test_the_bootstrap_interval_is_that_of_images_redrawn_within_classes():
    """Against a loop that draws images, and against the standard error of a stratified mean."""
    images, correct = np.array([50, 50, 20, 30]), np.array([40, 40, 5, 24])
    low, high = measures.bootstrap_interval(images, correct)
    rng = np.random.default_rng(1)
    outcomes = [np.repeat([1.0, 0.0], [right, total - right]) for total, right in zip(images, correct, strict=True)]
    draws = [np.mean([rng.choice(each, len(each)).mean() for each in outcomes]) for _ in range(4000)]
    assert (low, high) == pytest.approx(100 * np.quantile(draws, [0.025, 0.975]), abs=1.0)
    shares = correct / images
    error = 100 * np.sqrt((shares * (1 - shares) / images).sum()) / len(images)  # of a stratified mean
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.1)
    assert measures.bootstrap_interval(images, correct) == (low, high)  # the seed is fixed
    assert measures.bootstrap_interval(np.array([7]), np.array([7])) == (100, 100)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 5), (9, 2), (2, 9), (0, 12), (400, 460)])
def test_the_sign_test_is_scipys_binomial_test(wins, losses):
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert measures.sign_test(np.array(wins), np.array(losses)) == pytest.approx(expected, rel=1e-9)


# ---- confidence ----


def test_the_bins_are_those_of_scikit_learn_and_torchmetrics(predictions):
    correct = predictions.labels == predictions.predicted
    bins = charts.reliability(predictions)
    accuracy, confidence = calibration_curve(correct, predictions.confidence, n_bins=15)
    filled = bins.images > 0
    np.testing.assert_allclose(bins.correct[filled] / bins.images[filled], accuracy, rtol=1e-6)
    np.testing.assert_allclose(bins.confidence[filled] / bins.images[filled], confidence, rtol=1e-6)
    rest = (1 - predictions.confidence) / (CLASSES - 1)  # of the other classes, as the error reads the largest alone
    shares = np.repeat(rest[:, None], CLASSES, 1)
    np.put_along_axis(shares, predictions.predicted[:, None], predictions.confidence[:, None], 1)
    tensors = torch.from_numpy(shares), torch.from_numpy(predictions.labels)
    expected = multiclass_calibration_error(*tensors, CLASSES, n_bins=15)
    assert bins.error == pytest.approx(100 * float(expected), rel=1e-4)


def test_a_bin_has_its_upper_border():
    bins = confidence_bins(np.array([1 / 3, 0.34, 1.0]), np.array([True, False, True]), 3)
    assert bins.images.tolist() == [1, 1, 1]


def test_coverage_against_a_loop_over_thresholds(predictions):
    correct = predictions.labels == predictions.predicted
    confidence = np.round(predictions.confidence, 1)  # many equal ones
    found = measures.coverage(confidence, correct)
    for threshold, covered, accuracy in zip(found.threshold, found.covered, found.accuracy, strict=True):
        kept = confidence >= threshold
        assert (covered, accuracy) == pytest.approx((100 * kept.mean(), 100 * correct[kept].mean()))
    assert found.covered[-1] == 100
    assert found.covered[found.at(50)] >= 50 > np.append(0, found.covered)[found.at(50)]


def test_lines_of_coverage_count_images():
    found = measures.coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True]))
    half, whole = charts.coverage_lines(found, 4, (50, 100))
    assert (half.left, half.mistakes, half.threshold) == (2, 1, 0.8)
    assert (whole.left, whole.mistakes) == (0, 1)


def test_single_images_by_confidence():
    confidence, correct = np.array([0.5, 0.9, 0.7, 0.6, 0.95]), np.array([False, False, True, True, False])
    assert measures.most_confident_mistakes(confidence, correct, 2).tolist() == [4, 1]
    assert measures.least_confident_hits(confidence, correct, 5).tolist() == [3, 2]


def test_likely_mislabelled_images_by_the_definition():
    """The threshold of class 0 is 0.6, so image 3 (0.55) is not doubtful; that of class 1 is 0.53."""
    labels = np.array([0, 0, 1, 1, 1])
    predicted = np.array([0, 1, 0, 0, 1])
    own = np.array([0.9, 0.3, 0.2, 0.45, 0.95])
    confidence = np.array([0.9, 0.7, 0.8, 0.55, 0.95])
    thresholds = [own[labels == c].mean() for c in (0, 1)]
    assert thresholds == pytest.approx([0.6, 1.6 / 3])
    assert measures.likely_mislabelled(labels, predicted, confidence, own, 3).tolist() == [2, 1]


def test_planted_wrong_labels_are_found():
    """20 labels of 400 images are exchanged; the model predicts the true classes."""
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(4), 100)
    planted = rng.choice(400, 20, replace=False)
    labels = true.copy()
    labels[planted] = (labels[planted] + 1 + rng.integers(0, 3, 20)) % 4
    confidence = rng.uniform(0.93, 0.97, 400)
    own = np.where(labels == true, confidence, (1 - confidence) / 3)
    found = measures.likely_mislabelled(labels, true, confidence, own, 4)
    assert set(found) == set(planted)
