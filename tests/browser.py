"""A page in headless Chromium, over its debugging pipe: what a person would see, hear of errors, and click."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--use-angle=swiftshader", "--no-first-run"),
    *("--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--disable-extensions"),
)


class Browser:
    """Use as a context manager; `open` a file, then ask `value_of` it.

    troubles: errors and warnings of the console, exceptions, and everything the browser refused. requests: addresses
    that were asked for.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1200, 900), *, scripts: bool = True) -> None:
        self.profile, self.size, self.scripts = profile, size, scripts
        self.troubles: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Browser:
        to_read, self.commands = os.pipe()
        self.answers, to_write = os.pipe()

        def place() -> None:  # the debugging pipe is descriptors 3 and 4
            os.dup2(to_read, 13)
            os.dup2(to_write, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        self.process = subprocess.Popen(
            [str(CHROMIUM), *ARGUMENTS, f"--user-data-dir={self.profile}", "--window-size={},{}".format(*self.size)],
            preexec_fn=place,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.received, self.count, self.session = b"", 0, ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        if not self.scripts:
            self.ask("Emulation.setScriptExecutionDisabled", value=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)

    def open(self, path: Path) -> None:
        """Load a file and wait for it."""
        self.ask("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def value_of(self, expression: str) -> Any:
        """A JavaScript expression's value."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value_of(expression):
            assert time.monotonic() < end, f"{expression} did not become true; {self.troubles}"
            time.sleep(0.1)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """What is seen now, or the whole page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def pdf(self, path: Path) -> Path:
        """The page as it is printed."""
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"]))
        return path

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its answer; events are noted on the way."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self.count:
                assert "error" not in found, f"{method}: {found['error']}"
                return dict(found["result"])
            self._note(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.received:
            more = os.read(self.answers, 1 << 20)
            assert more, "the browser ended"
            self.received += more
        first, self.received = self.received.split(b"\0", 1)
        return dict(json.loads(first))

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.troubles.append(" ".join(str(part.get("value", part.get("description"))) for part in values["args"]))
        elif method == "Runtime.exceptionThrown":
            self.troubles.append(str(values["exceptionDetails"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.troubles.append(f"{values['entry']['source']}: {values['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"][:80])
