"""The demo page in a process of its own, called as programs call it."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress

from conftest import ROOT, free_port


@contextmanager
def served_demo(run, folder, *flags):
    """`Served` with demo.py of a run, which takes requests; `corrections` is its file of them, in `folder`."""
    corrections, port = folder / "corrections.csv", free_port()
    served = Served(ROOT / "demo.py", "--model", run, "--corrections_file", corrections, "--port", port, *flags)
    served.port, served.corrections = port, corrections
    try:
        served.wait()
        yield served
    finally:
        served.stop()


class Served:
    """A process that serves the page: `command` gets to know its port by Gradio's environment variable."""

    def __init__(self, *command, folder=ROOT, python=sys.executable, **environment):
        self.port = free_port()
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the object)
        self.process = subprocess.Popen(
            [python, *map(str, command)],
            cwd=folder,
            env=os.environ | {"GRADIO_SERVER_PORT": str(self.port)} | environment,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def wait(self, seconds=240):
        """Wait until it takes requests; where it does not, what it has printed is the failure."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("GET", "/config")  # Gradio listens before it answers
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.2)
        raise AssertionError(self.said())

    def said(self):
        """What it has printed."""
        self.output.seek(0)
        return self.output.read()

    def call(self, name, *values):
        """`(status, answer)` of a function of the page."""
        return call(self.port, name, *values)

    def stop(self):
        self.process.terminate()
        self.process.wait(120)  # on a busy machine


def call(port, name, *values, timeout=120, **headers):
    """`(status, answer)` of a function of a page on this machine, by the two requests that Gradio's interface takes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    body = json.dumps({"data": values})
    connection.request("POST", f"/gradio_api/call/{name}", body, {"Content-Type": "application/json"} | headers)
    response = connection.getresponse()
    said = json.loads(response.read())
    if response.status != 200:
        return response.status, said["detail"]
    connection.request("GET", f"/gradio_api/call/{name}/{said['event_id']}", headers=headers)
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    data = [json.loads(line.partition(":")[2]) for line in lines if line.startswith("data:")][-1]
    return (200, data[0]) if "event: complete" in lines else (500, data["error"])
