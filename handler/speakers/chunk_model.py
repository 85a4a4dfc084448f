"""The speaker model that hears chunks: its networks, and what hears a recording or a stream with them."""

from handler.schema.option_parsers import MAX_SPEAKERS
from handler.speakers.chunk_diarizer import ChunkDiarizer, SpeakerNetworks
from handler.speakers.online_diarizer import OnlineChunkDiarizer


class ChunkSpeakerModel:
    """A speaker model that consists of these networks."""

    max_speakers = MAX_SPEAKERS
    compares_voices = True
    hears_streams = True

    def __init__(self, model_id: str, networks: SpeakerNetworks) -> None:
        self.model_id = model_id
        self._networks = networks

    def new_diarizer(self) -> ChunkDiarizer:
        """Return what hears one recording."""
        return ChunkDiarizer(self._networks)

    def new_online_diarizer(self) -> OnlineChunkDiarizer:
        """Return what hears one stream."""
        return OnlineChunkDiarizer(self._networks)
