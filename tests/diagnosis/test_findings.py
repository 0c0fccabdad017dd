"""The verdict of a diagnosis, from numbers chosen by hand."""

import json
from dataclasses import replace

import pytest
from helpers.browser import chromium

from pmr_hf.diagnosis.findings import Diagnosis, Difference, ModalityFindings


def modality(name, alone, prototypes, probe, ratio, joint=0.9, error=0.01):
    """A modality with the same three accuracies alone, others after joint training, and the error of differences."""
    apart = [Difference(alone - other, error) for other in (prototypes, probe, joint)]
    ratios = [(0.5, ratio), (1.0, ratio)]
    return ModalityFindings(name, alone, alone, alone, prototypes, probe, *apart, 0.2, ratio, ratios)


def diagnosis(joint, *modalities, averaged=0.0, error=0.01, majority=0.1):
    best = max(joint, averaged, *(modality.alone for modality in modalities))
    apart = Difference(best - majority, error), Difference(averaged - joint, error)
    return Diagnosis("accuracy", 200, 100, majority, apart[0], joint, averaged, apart[1], list(modalities))


FAST = modality("fast", 0.6, 0.3, 0.3, ratio=1.0)  # it lost most, but it leads: it is not starved


@pytest.mark.parametrize(
    ("joint", "slow", "verdict", "words"),
    [
        (
            0.5,
            modality("slow", 0.9, 0.6, 0.89, 0.7, joint=0.5),
            "starved",
            "'slow' is starved: after joint training its prototypes",
        ),
        (0.8, modality("slow", 0.9, 0.9, 0.8, 0.7, joint=0.8), "starved", "its linear probe 80.0, alone 90.0 and 90.0"),
        (0.7, modality("slow", 0.9, 0.88, 0.89, 0.9, joint=0.7), "ignored", "'slow' is fine, and the head ignores it"),
        (
            0.89,
            modality("slow", 0.9, 0.88, 0.89, 0.9, joint=0.89),
            "balanced",
            "joint training has 89.0, the best modality alone 90.0",
        ),
    ],
)
def test_the_verdict(joint, slow, verdict, words):
    found = diagnosis(joint, slow, FAST)
    assert found.verdict == verdict and words in found.sentence
    assert found.sentence in str(found) and found.advice in str(found)
    assert found.starved == (["slow"] if verdict == "starved" else [])


def test_a_training_whose_probe_is_far_above_every_answer_was_too_short():
    slow = modality("slow", 0.5, 0.4, 0.4, 0.7, joint=0.5)
    for probe, verdict in ((0.71, "too short"), (0.69, "starved")):
        found = diagnosis(0.4, replace(slow, alone_probe=probe, above_joint=Difference(0.1, 0.01)), FAST)
        assert found.verdict == verdict and ("too short to tell" in found.sentence) == (verdict == "too short")


@pytest.mark.parametrize(
    ("majority", "error", "verdict"), [(0.9, 0.01, "too short"), (0.87, 0.02, "too short"), (0.87, 0.01, "balanced")]
)
def test_models_that_are_not_surely_better_than_a_constant_tell_nothing(majority, error, verdict):
    slow = modality("slow", 0.9, 0.88, 0.89, 0.9, joint=0.89)
    found = diagnosis(0.89, slow, FAST, majority=majority, error=error)
    assert found.verdict == verdict
    assert ("the best of their answers has 90.0, and the most frequent" in found.sentence) == (verdict == "too short")


@pytest.mark.parametrize(
    ("value", "error", "counts"), [(0.06, 0.02, True), (0.06, 0.04, False), (0.04, 0.001, False), (-0.2, 0.01, False)]
)
def test_a_difference_counts_from_five_points_and_two_standard_errors_on(value, error, counts):
    assert Difference(value, error).counts == counts
    slow = modality("slow", 0.9, 0.9 - value, 0.9, 0.7, error=error)
    assert diagnosis(0.9, slow, FAST).behind == (["slow"] if counts else [])


@pytest.mark.parametrize("left", [0.6, 0.9])  # by the prototypes of the slow modality, which has 0.9 alone
@pytest.mark.parametrize(
    ("averaged", "error", "suffers"), [(0.97, 0.01, True), (0.97, 0.04, False), (0.94, 0.01, False)]
)
def test_an_encoder_that_is_behind_is_starved_if_the_models_alone_answer_better(left, averaged, error, suffers):
    slow = modality("slow", 0.9, left, 0.9, 0.7, joint=0.91)
    found = diagnosis(0.91, slow, FAST, averaged=averaged, error=error)
    assert found.starved == (["slow"] if suffers and left < 0.9 else [])
    if suffers:
        assert found.verdict == ("starved" if left < 0.9 else "ignored")
        assert "the models alone, averaged" in found.sentence and "97.0" in found.sentence
    else:
        assert found.verdict == "balanced" and ("'slow' is behind" in found.sentence) == (left < 0.9)


def test_the_table_and_the_json(tmp_path):
    found = diagnosis(0.5, modality("slow", 0.9, 0.6, 0.85, 0.7, joint=0.5), FAST)
    slow = next(line for line in str(found).splitlines() if line.startswith("slow"))
    assert slow.split() == ["slow", "90.0", "60.0", "85.0", "+30.0", "±", "1.0", "+5.0", "±", "1.0", "0.20", "0.70"]
    found.save(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "diagnosis.json").read_text())
    assert saved["verdict"] == "starved" and saved["starved"] == ["slow"] and saved["rows"] == 200
    assert saved["modalities"][0]["joint_prototypes"] == 0.6
    assert saved["modalities"][0]["lost_by_prototypes"] == {"value": pytest.approx(0.3), "error": 0.01}


def test_the_page_in_a_browser(tmp_path):
    found = diagnosis(0.5, modality("<b>slow</b>", 0.9, 0.6, 0.85, 0.7, joint=0.5), FAST)
    file = found.save(tmp_path)
    requests = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1300})
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        assert found.sentence in page.locator(".verdict").inner_text()
        drawn = page.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert len(drawn) == 2 and min(drawn) > 500
        assert (
            page.locator("tr").nth(1).inner_text().split()
            == next(line for line in str(found).splitlines() if line.startswith("<b>")).split()
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
