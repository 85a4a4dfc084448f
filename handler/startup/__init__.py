"""Start a process: find the model, load it and warm it up."""
