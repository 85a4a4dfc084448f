"""The account of a request: what it was, what served it, and what it used. Pure functions. Knows no request."""

from collections.abc import Mapping

Account = dict[str, str | float | bool]


def build_account(
    audio_s: float,
    total_s: float,
    device_s: float,
    *,
    is_cold: bool,
    price_per_s: float | None,
    model_info: Mapping[str, str],
) -> Account:
    """Return the account of a request for `audio_s` seconds of audio.

    It took `total_s` seconds, of which the device worked `device_s` for it. `is_cold` says whether it is the first of
    its process, `price_per_s` what a second of the device costs, and `model_info` what is told of model and device.
    """
    account: Account = {
        "audio_s": round(audio_s, 3),
        "total_s": round(total_s, 4),
        "real_time_factor": round(audio_s / total_s, 3),
        "device_s": device_s,
        "cold": is_cold,
        **model_info,
    }
    return account if price_per_s is None else account | {"price": round(device_s * price_per_s, 8)}
