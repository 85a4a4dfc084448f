"""Turn the bytes of a file into windows of speech: fetch, decode, detect speech and cut into windows."""
