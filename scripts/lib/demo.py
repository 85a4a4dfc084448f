"""Transcribe test_input.json through handler(event): print the transcript and where the time went."""

import asyncio
import json
import time
from pathlib import Path

from tqdm import tqdm


def main() -> None:
    """Load the model, run the one job, print."""
    began = time.perf_counter()
    with tqdm(desc="loading the model", total=1, bar_format="{desc}: {bar} {elapsed}") as bar:
        from handler import worker

        bar.update(1)
    loaded = time.perf_counter() - began
    event = json.loads((Path(__file__).parents[2] / "test_input.json").read_text())
    with tqdm(desc="transcribing", total=1, bar_format="{desc}: {bar} {elapsed}") as bar:
        output = asyncio.run(worker.handler(event))
        bar.update(1)
    worker.pipeline.close()
    print(json.dumps(output, ensure_ascii=False, indent=2))
    timing = output["timing"]
    cold_start = timing.pop("cold_start")
    for title, stages in (("the start", cold_start), ("the job", {"load the model": loaded, **timing})):
        print(f"\nwhere the time of {title} went")
        for name, seconds in stages.items():
            print(f"  {name:<16}{seconds:8.3f} s")


if __name__ == "__main__":
    main()
