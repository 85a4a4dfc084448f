"""Choose PyTorch's build for this machine. Runs before anything is installed. See scripts/gpu_check."""

import sys

from handler.engine.nvidia import driver_version, has_gpu

CU130_DRIVER = 580  # the first driver that runs CUDA 13: docs.nvidia.com/cuda/cuda-toolkit-release-notes, table 2


def build_for(gpu: bool, driver: str) -> str:
    """Return the name of the build, such as `cu126`, for a machine with a driver of this version.

    A driver of unknown version counts as a new one.
    """
    if not gpu:
        return "cpu"
    is_new = not driver or int(driver.partition(".")[0]) >= CU130_DRIVER
    return "cu130" if is_new else "cu126"


if __name__ == "__main__":
    sys.stdout.write(build_for(has_gpu(), driver_version()) + "\n")
