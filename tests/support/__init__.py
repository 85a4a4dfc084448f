"""Servers, clients, speech and fakes that tests and scripts share."""
