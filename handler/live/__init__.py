"""Text while it is being spoken: a stream of samples becomes turns, whose text is told as soon as it is settled."""
