"""Who speaks when. Knows no word and no request."""
