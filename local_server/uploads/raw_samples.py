"""Read from a content type how samples without a header are encoded. Knows no body and no decoder.

Sources: RFC 2046 (audio/basic), RFC 4856 (audio/PCMU, audio/PCMA), RFC 2586 (audio/L16). The parameter `endianness`
comes from IBM's speech service.
"""

from python_multipart.multipart import parse_options_header

from local_server.uploads.multipart import MAX_CONTENT_TYPE

_FORMATS = {
    "audio/basic": "pcm_mulaw",
    "audio/pcmu": "pcm_mulaw",
    "audio/mulaw": "pcm_mulaw",
    "audio/x-mulaw": "pcm_mulaw",
    "audio/pcma": "pcm_alaw",
    "audio/alaw": "pcm_alaw",
    "audio/x-alaw": "pcm_alaw",
    "audio/l16": "pcm_s16be",
}
_PARAMETERS = {"rate": "sample_rate", "channels": "input_channels"}  # name in a content type: name of the option


def options_of_type(content_type: str) -> dict[str, str]:
    """Return the options that a content type of samples without a header stands for, and {} for any other type.

    The values are not checked. A file of such a type that has a header after all is read by its header.
    """
    if len(content_type) > MAX_CONTENT_TYPE:
        return {}
    media_type, parameters = parse_options_header(content_type)
    format = _FORMATS.get(media_type.decode("latin-1"))
    if format is None:
        return {}
    values = {name.decode("latin-1"): value.decode("latin-1") for name, value in parameters.items()}
    if format == "pcm_s16be" and values.get("endianness", "").lower() == "little-endian":
        format = "pcm_s16le"
    return {"input_format": format} | {option: values[name] for name, option in _PARAMETERS.items() if name in values}
