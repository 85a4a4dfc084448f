"""Requests whose answer is fetched later, or sent to a webhook."""
