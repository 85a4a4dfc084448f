"""Run the jobs of a RunPod queue: parse them, transcribe their audio, and deliver the answers."""
