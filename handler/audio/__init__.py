"""From bytes to windows of speech: fetching, decoding, voice activity detection, chunking."""
