"""A real browser, for the tests of pages."""

import json
import re
import subprocess
import urllib.error
import urllib.request


class Browser:
    """Headless Chromium through chromedriver's HTTP interface."""

    def __init__(self, chromium, driver):
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        self.base = f"http://127.0.0.1:{found[1]}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self.post("", {"capabilities": {"alwaysMatch": options}})
        self.base += "/" + made["sessionId"]

    def post(self, path, body):
        request = urllib.request.Request(
            self.base + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        # Never through a proxy: the driver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def run(self, script):
        return self.post("/execute/sync", {"script": script, "args": []})

    def emulate(self, scheme, width):
        cdp = lambda cmd, **params: self.post("/goog/cdp/execute", {"cmd": cmd, "params": params})  # noqa: E731
        cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def close(self):
        request = urllib.request.Request(self.base, method="DELETE")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()
