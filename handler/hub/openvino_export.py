"""Write a CTC checkpoint as a model of OpenVINO: python -m handler.hub.openvino_export CHECKPOINT FOLDER int8|float32.

A program of its own, because exporting imports and traces much that a server has no use for.
"""

import sys
import warnings
from pathlib import Path


def keep_silent() -> None:
    """Make OpenVINO and its tools report nothing to their makers, which they do where this package can be imported.

    Call this before they are imported.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def export(checkpoint: Path, folder: Path, number_format: str) -> None:
    """Write the network in `checkpoint` to `folder`, with weights of 8 bits or as they are."""
    keep_silent()
    from optimum.intel import OVModelForCTC, OVWeightQuantizationConfig

    options = {"quantization_config": OVWeightQuantizationConfig(bits=8)} if number_format == "int8" else {}
    network = OVModelForCTC.from_pretrained(
        checkpoint, export=True, compile=False, load_in_8bit=False, local_files_only=True, **options
    )
    network.save_pretrained(folder)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of tracing, which shows what depends on the length of the input
    export(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
