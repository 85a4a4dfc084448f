"""Tests of local_server."""
