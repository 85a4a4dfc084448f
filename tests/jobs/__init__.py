"""Tests of handler/jobs."""
