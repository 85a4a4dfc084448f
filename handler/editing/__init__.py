"""Changes to final text before anybody sees it: phrases replaced, sensitive text redacted."""
