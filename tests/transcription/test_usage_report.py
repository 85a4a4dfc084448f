"""The account of a request has what it used, rounded, and a price where a second of the device has one."""

from handler.transcription.usage_report import build_account

MODEL = {"model": "a/b", "device": "a GPU"}


def test_an_account_tells_what_was_used() -> None:
    account = build_account(60.12345, 2.0, 0.5, is_cold=True, price_per_s=None, model_info=MODEL)
    assert account == {
        "audio_s": 60.123,
        "total_s": 2.0,
        "real_time_factor": 30.062,
        "device_s": 0.5,
        "cold": True,
        **MODEL,
    }


def test_a_price_is_that_of_the_devices_seconds() -> None:
    account = build_account(60.0, 2.0, 0.5, is_cold=False, price_per_s=0.0002, model_info=MODEL)
    assert account["price"] == 0.0001
