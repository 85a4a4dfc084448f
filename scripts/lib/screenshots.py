"""Pictures of the page for the documentation: a server in a process of its own, a browser, synthetic speech."""

from pathlib import Path

import numpy as np

from scripts.lib.bench_server import Server
from scripts.lib.convert import TINY
from scripts.lib.peers import ROOT
from tests.support.browser import Browser
from tests.support.speech import SENTENCES, say, silence, wav

SIZES: dict[str, tuple[int, int, bool, bool]] = {  # width, height, dark, phone
    "page": (1000, 760, False, False),
    "page-dark": (1000, 760, True, False),
    "page-phone": (390, 800, False, True),
}


def main() -> None:
    """Write docs/page*.png."""
    speech = wav(np.concatenate([part for text in SENTENCES for part in (say(text), silence(1.0))]), format="FLAC")
    log = ROOT / ".bench" / "screenshots.log"
    log.parent.mkdir(exist_ok=True)
    with Server(Path(TINY), 2, "cpu", log) as server, Browser() as browser:
        browser.open(server.url + "/")
        browser.drop(speech, "sentences.flac")
        browser.wait_until("document.getElementById('status').hidden && !document.getElementById('result').hidden")
        browser.wait_until("document.getElementById('player').readyState > 0")
        browser.click("#text p:nth-child(2) .word:nth-child(4)")
        browser.run(
            "(() => { const s = document.getElementById('search'); s.value = 'the'; "
            "s.dispatchEvent(new Event('input')); })()"
        )
        for name, (width, height, dark, phone) in SIZES.items():
            browser.screenshot(width=width, height=height, dark=dark, phone=phone)
            browser.run("(() => { window.scrollTo(0, 0); window.dispatchEvent(new Event('resize')); })()")
            Path(ROOT / "docs" / f"{name}.png").write_bytes(
                browser.screenshot(width=width, height=height, dark=dark, phone=phone)
            )


if __name__ == "__main__":
    main()
