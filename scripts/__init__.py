"""What builds, measures and tries the product; nothing of it is needed to run it."""
