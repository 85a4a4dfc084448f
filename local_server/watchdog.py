"""Notice that a server can no longer decode audio, and try to mend it. Knows no route."""

import asyncio

from handler import logs
from handler.errors import DecodingLost
from handler.transcription.pipeline import Pipeline

CHECK_S = 5.0  # time between two looks
PATIENCE_S = 60.0  # time in which a fault may be mended


async def await_lost_decoding(pipeline: Pipeline, check_s: float = CHECK_S, patience_s: float = PATIENCE_S) -> None:
    """Return once audio could not be decoded for `patience_s` seconds, although this tried to mend it."""
    clock = asyncio.get_running_loop().time
    lost_since: float | None = None
    while lost_since is None or clock() - lost_since < patience_s:
        await asyncio.sleep(check_s)
        fault = pipeline.fault
        if not isinstance(fault, DecodingLost):
            lost_since = None
            continue
        lost_since = clock() if lost_since is None else lost_since
        logs.warning("decoding_lost", reason=fault.message)
        await asyncio.to_thread(pipeline.mend)
        if not isinstance(pipeline.fault, DecodingLost):
            lost_since = None
