"""What the demo's HTTP interface holds: many clients at once, against predicting the same rows without it.

    python -m benchmarks.serving --model outputs/minilm --file sample_data/train.csv --name "2 cores"

Clients call `predict` (one text) and `predict_many` (16 texts) by plain HTTP, each as fast as it is answered. Memory is
the server's, before and after. Then more requests come at once than may wait: each must be answered, or turned away.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.figures import command_line, stored
from utils.core.files import write_json
from utils.core.parser import option, script
from utils.core.tables import format_table

RESULTS = "benchmarks/results/serving.json"
ROOT = Path(__file__).parent.parent
ANSWER_SECONDS = 300


@dataclass
class ServingArguments:
    """What is served, and how hard it is asked."""

    model: str = option(None, "folder of a finished run")
    file: str = option("sample_data/train.csv", "rows to predict, with the columns of the run's data")
    requests: int = option(200, "requests in all")
    clients: int = option(20, "clients that send them, each one request at a time")
    many: int = option(16, "texts of a request to predict_many")
    waiting: int = option(16, "requests that may wait when more come than that")
    rounds: int = option(3, "times that it is measured, of which the median is shown")
    name: str = option("here", "of these figures in the results file")


class Server:
    """`demo.py` in a process of its own."""

    def __init__(self, model: str, *flags: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "demo.py", "--model", model, "--port", str(self.port), *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "HTTP interface" in line:
                return
        raise RuntimeError("the demo did not start: python demo.py says why")

    @property
    def memory(self) -> float:
        """MiB that the process holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def call(port: int, name: str, value: object) -> tuple[int, object]:
    """`(status, answer)` of a function of the page: its result is asked for, and waited for.

    Args:
        port: of the server on this machine.
        name: of the function.
        value: what it takes.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    body = json.dumps({"data": [value]})
    connection.request("POST", f"/gradio_api/call/{name}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    said = json.loads(response.read())
    if response.status != 200:
        return response.status, said
    connection.request("GET", f"/gradio_api/call/{name}/{said['event_id']}")
    event = ""
    for line in connection.getresponse():
        if line.startswith(b"event:"):
            event = line.split(b":", 1)[1].strip().decode()
        if line.startswith(b"data:") and event in ("complete", "error"):
            connection.close()
            return (200 if event == "complete" else 500), json.loads(line.split(b":", 1)[1])
    return 0, None


def ask(port: int, name: str, values: list, clients: int) -> tuple[float, list[float], Counter]:
    """Send requests by several clients at once.

    Args:
        port: of the server.
        name: of the function.
        values: one for each request.
        clients: that share them.

    Returns:
        `(seconds in all, seconds of each request, how often each status)`.
    """
    left, seconds, statuses = list(values), [], Counter()
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not left:
                    return
                value = left.pop(0)
            start = time.perf_counter()
            status, _ = call(port, name, value)
            with lock:
                seconds.append(time.perf_counter() - start)
                statuses[status] += 1

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, seconds, statuses


def offline_rate(model: str, texts: list[str]) -> float:
    """Rows that `predict` of the run does in a second, without a server, in a process of its own."""
    code = (
        "import json, sys, time\n"
        "from utils.runs.inference import load_run\n"
        "run, texts = load_run(sys.argv[1]), json.load(sys.stdin)\n"
        "run.predict(texts[:32], 32)\n"
        "start = time.perf_counter()\n"
        "run.predict(texts, 32)\n"
        "print(len(texts) / (time.perf_counter() - start))\n"
    )
    command = [sys.executable, "-c", code, model]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(texts), capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@script(__doc__, [ServingArguments])
def main(args: ServingArguments) -> None:
    """Measure, show, keep."""
    from utils.data.columns import read_texts
    from utils.data.tables import read_table
    from utils.runs.folder import load_task

    texts = read_texts(read_table(args.file), load_task(args.model))
    one = [texts[i % len(texts)] for i in range(args.requests)]
    many = [[texts[(i * args.many + j) % len(texts)] for j in range(args.many)] for i in range(args.requests)]
    measured = []
    for _ in range(args.rounds):
        offline = offline_rate(args.model, one)
        offline_many = offline_rate(args.model, [text for texts in many for text in texts])
        server = Server(args.model)
        ask(server.port, "predict", one[:5], 1)
        for name, values, rate in (("predict", one, offline), ("predict_many", many, offline_many)):
            before = server.memory
            seconds, each, statuses = ask(server.port, name, values, args.clients)
            rows = args.requests * (1 if name == "predict" else args.many)
            measured.append(
                {
                    "function": name,
                    "answered": statuses[200],
                    "rows_per_second": rows / seconds,
                    "offline": rate,
                    "share": rows / seconds / rate,
                    "p50": float(np.percentile(each, 50)),
                    "p99": float(np.percentile(each, 99)),
                    "memory_before": before,
                    "memory_after": server.memory,
                }
            )
        server.stop()
    server = Server(args.model, "--max_waiting", str(args.waiting))
    seconds, _, statuses = ask(server.port, "predict", one, args.requests)  # each client has one request: all at once
    after, _ = call(server.port, "predict", one[0])
    server.stop()
    others = args.requests - statuses[200] - statuses[503]
    crowd = {"waiting": args.waiting, "answered": statuses[200], "turned_away": statuses[503], "others": others}
    crowd |= {"seconds": seconds, "answers_afterwards": after == 200}

    medians = []
    for name in ("predict", "predict_many"):
        rounds = [row for row in measured if row["function"] == name]
        figures = [key for key in rounds[0] if key != "function"]
        medians.append({"function": name} | {key: float(np.median([row[key] for row in rounds])) for key in figures})
    header = ["function", "answered", "rows/s", "offline", "share", "p50 s", "p99 s", "MiB before", "after"]
    print(format_table(header, [list(row.values()) for row in medians]))
    print(f"\n{args.requests} requests at once, {args.waiting} may wait: {crowd}")
    how: dict[str, object] = {name: getattr(args, name) for name in ("requests", "clients", "many", "rounds")}
    how |= {"date": date.today().isoformat(), "command": f"python -m benchmarks.serving {command_line([args.model])}"}
    how |= {"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")}
    results = stored(RESULTS)
    results[args.name] = how | {"median": medians, "rounds_measured": measured, "crowd": crowd}
    write_json(RESULTS, {"results": results})


if __name__ == "__main__":
    main()
