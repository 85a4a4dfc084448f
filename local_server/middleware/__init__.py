"""Middleware that every HTTP request passes through."""
