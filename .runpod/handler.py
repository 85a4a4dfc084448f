"""What RunPod's Hub looks for; the image starts the same with `python -m handler`."""

from handler.__main__ import main

if __name__ == "__main__":
    main()
