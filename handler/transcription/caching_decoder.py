"""Decode windows, or take them from the window cache. Knows no engine and no audio source."""

import asyncio

from handler.schema.options import Options
from handler.schema.window import Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.shared_resources import SharedResources
from handler.transcription.window_decoder import WindowDecoder


class CachingDecoder:
    """Decodes the windows of one request, of which those that the window cache holds are decoded already."""

    def __init__(self, decoder: WindowDecoder, resources: SharedResources, options: Options) -> None:
        self._decoder = decoder
        self._resources = resources
        self._options = options

    async def decode(self, window: Window) -> DecodedWindow:
        """Return the decoded window from the cache, or else decode the window and store the result in the cache."""
        # A folder must not keep what nobody is to see.
        cache = None if self._options.redact else self._resources.window_cache
        if cache is None:
            return await self._decode(window)
        key = await asyncio.to_thread(cache.key, window, self._options, self._resources.model_info)
        decoded = await asyncio.to_thread(cache.get, key, window)
        if decoded is None:
            decoded = await self._decode(window)
            await asyncio.to_thread(cache.put, key, decoded)
        return decoded

    async def _decode(self, window: Window) -> DecodedWindow:
        decoded = await self._decoder.decode(window)
        self._resources.decoded_s += window.seconds
        return decoded
