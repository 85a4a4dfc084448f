"""One request from its audio to its transcript. Knows no model and no way in."""
