"""RunPod's queue."""
