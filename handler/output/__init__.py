"""A transcript in the formats that clients read."""
