"""One request from its audio to its transcript; knows no model and no way in."""
