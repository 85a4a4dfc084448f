"""RunPod's job queue."""
