"""The language is the likeliest of the first windows by their length, and no window is asked that is not needed."""

import pytest

from handler.schema.window import WindowResult
from handler.transcription.language_detector import LANGUAGE_WINDOWS, LanguageDetector


def told(**languages: float) -> WindowResult:
    return WindowResult((), None, max(languages, key=languages.__getitem__), languages)


def test_one_sure_window_is_enough() -> None:
    detector = LanguageDetector()
    detector.add(told(en=0.95, de=0.05), 10.0)
    assert (detector.language, detector.probability, detector.is_done) == ("en", 0.95, True)


def test_longer_windows_weigh_more() -> None:
    detector = LanguageDetector()
    detector.add(told(de=0.6, nl=0.4), 2.0)
    assert (detector.language, detector.is_done) == ("de", False)
    detector.add(told(nl=0.7, de=0.3), 20.0)
    assert (detector.language, detector.is_done) == ("nl", False)
    assert detector.probability == pytest.approx((0.4 * 2 + 0.7 * 20) / 22)


def test_so_many_windows_are_asked_and_no_more() -> None:
    detector = LanguageDetector()
    for number in range(LANGUAGE_WINDOWS):
        assert not detector.is_done, number
        detector.add(told(fr=0.5, es=0.5), 5.0)
    assert detector.is_done


def test_a_model_that_tells_no_probabilities_is_believed() -> None:
    detector = LanguageDetector()
    detector.add(WindowResult((), None, "ja"), 5.0)
    assert (detector.language, detector.probability, detector.is_done) == ("ja", None, True)


def test_only_languages_that_are_allowed_are_found() -> None:
    detector = LanguageDetector(allowed=("de", "fr"))
    detector.add(told(en=0.9, de=0.06, fr=0.02, nl=0.02), 10.0)
    assert (detector.language, detector.is_done) == ("de", False)
    assert detector.probability == pytest.approx(0.75)


def test_allowed_languages_that_no_window_tells_are_equally_likely() -> None:
    detector = LanguageDetector(allowed=("de", "fr"))
    detector.add(told(en=1.0), 10.0)
    assert (detector.language, detector.probability) == ("de", 0.5)
