"""Convert a transcript to the formats that clients read."""
