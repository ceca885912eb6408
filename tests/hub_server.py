"""A Hub in miniature: the part of its HTTP interface that huggingface_hub calls to push and pull, over files in memory.

Written after what huggingface_hub 2.4 sends: POST /api/repos/create, GET /api/models/REPO[/revision/R], POST
/api/validate-yaml, POST .../preupload/R, Git LFS's batch with PUT, POST .../commit/R (lines of JSON), GET .../tree/R,
HEAD and GET /REPO/resolve/R/PATH.
"""

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool
    files: dict = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    messages: list = field(default_factory=list)
    sdk: str | None = None

    @property
    def commit(self):
        return hashlib.sha1(json.dumps(self.messages).encode()).hexdigest()


class MiniHub(ThreadingHTTPServer):
    """`repositories` by name; `answers` is {start of a request, as "POST /api/repos": (status, text)}, served instead
    of what would be; `requests` are those that came. `troubles` is a list of (start of a request, kind), each met once:

    - a number: that status, 429 with `retry_after`
    - a function: it is called
    - "cut": half of the answer, and the connection ends; "reset": nothing at all
    - "silent": no answer until the client has gone
    - "short", "long": an answer of another size than the index says; "changed": one of other bytes

    A Space is called spaces/user/name.
    """

    daemon_threads = True

    def __init__(self, user="me", token="hf_right"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.user, self.token = user, token
        self.repositories, self.objects, self.answers, self.requests, self.troubles = {}, {}, {}, [], []
        self.retry_after = "1"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def seed(self, name, folder):
        """Put the files of a folder into a public repository."""
        self.repositories[name] = Repository(False)
        self.repositories[name].files |= {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    trouble = None

    def reply(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        whole = content
        if self.trouble == "cut":
            headers["Content-Length"], content = str(len(content)), content[: len(content) // 2]
            self.close_connection = True
        elif self.trouble in ("short", "long", "changed"):
            changed = bytes([content[-1] ^ 1])
            content = {"short": whole[:-1], "long": whole + b"x" * 100, "changed": whole[:-1] + changed}[self.trouble]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_request(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {path}"
        hub.requests.append(request)
        self.trouble = next((kind for start, kind in hub.troubles if request.startswith(start)), None)
        if self.trouble is not None:
            hub.troubles.remove(next(pair for pair in hub.troubles if request.startswith(pair[0])))
        if callable(self.trouble):
            self.trouble()
        if isinstance(self.trouble, int):
            headers = {"Retry_After": hub.retry_after} if self.trouble == 429 else {}
            return self.reply(self.trouble, {"error": "Trouble"}, **headers)
        if self.trouble in ("reset", "silent"):
            self.close_connection = True
            if self.trouble == "silent":
                self.connection.settimeout(20)
                with contextlib.suppress(OSError):
                    self.connection.recv(1)
            return None
        for start, (status, text) in hub.answers.items():
            if request.startswith(start):
                return self.reply(status, {"error": text})
        known = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if self.command in ("POST", "PUT") and "/lfs/" not in path and not known:
            return self.reply(401, {"error": "Invalid username or password."})
        words = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return self.reply(200, {"name": hub.user}) if known else self.reply(401, {"error": "Invalid token"})
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            sent = json.loads(body)
            if sent.get("organization") not in (None, hub.user):
                return self.reply(403, {"error": "You don't have the rights to create a model under that namespace"})
            kind = "spaces/" if sent.get("type") == "space" else ""
            name = f"{kind}{sent.get('organization') or hub.user}/{sent['name']}"
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, Repository(sent.get("visibility") == "private", sdk=sent.get("sdk")))
            return self.reply(status, {"url": f"{hub.url}/{name}"})
        if words[:1] == ["lfs"]:
            hub.objects[words[1]] = body
            return self.reply(200)
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}
            return self.reply(200, {"transfer": "basic", "objects": objects})
        if words[:2] == ["api", "models"]:
            words = words[2:]
        if words[:2] == ["api", "spaces"]:
            words = [f"spaces/{words[2]}", *words[3:]]
        repository = hub.repositories.get("/".join(words[:2]))
        if repository is None or (repository.private and not known):
            return self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return getattr(self, f"{words[2] if len(words) > 2 else 'revision'}_")(repository, words, body)

    do_GET = do_POST = do_PUT = do_HEAD = handle_request

    def revision_(self, repository, words, body):
        siblings = [{"rfilename": name, "size": len(content)} for name, content in repository.files.items()]
        name = "/".join(words[:2])
        self.reply(200, {"id": name, "private": repository.private, "sha": repository.commit, "siblings": siblings})

    def preupload_(self, repository, words, body):
        files = [
            {"path": file["path"], "uploadMode": "lfs" if "safetensors" in file["path"] else "regular",
             "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]  # fmt: skip
        self.reply(200, {"files": files})

    def commit_(self, repository, words, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
        url = f"{self.server.url}/{'/'.join(words[:2])}/commit/{repository.commit}"
        self.reply(200, {"commitUrl": url, "commitOid": repository.commit})

    def tree_(self, repository, words, body):
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            for path, content in repository.files.items()
        ]
        self.reply(200, entries)

    def resolve_(self, repository, words, body):
        content = repository.files.get("/".join(words[4:]))
        if content is None:
            return self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        return self.reply(200, content, ETag=f'"{git_hash(content)}"', X_Repo_Commit=repository.commit)


# The tests' own process is offline for good, so what speaks to the Hub runs in another. With modules to import it forks
# for each call, so that a call can be killed; a file in its cache has the process id.
CHILD = """
import contextlib, importlib, io, json, os, sys, traceback
from pathlib import Path

def answer(module, arguments):
    output, status = io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            exec(arguments[0], {}) if module == "exec" else importlib.import_module(module).main(arguments)
        except SystemExit as stop:
            status = stop.code
        except Exception:
            traceback.print_exc()
            status = 1
    print(json.dumps([status, output.getvalue()]), flush=True)

for module in sys.argv[1:]:
    importlib.import_module(module)
for line in sys.stdin:
    if sys.argv[1:]:
        pid = os.fork()
        if pid:
            number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if number < 0:
                print(json.dumps([number, ""]), flush=True)
            continue
        Path(os.environ["HF_HOME"], "pid").write_text(str(os.getpid()))
    answer(*json.loads(line))
    if sys.argv[1:]:
        os._exit(0)
"""


@contextlib.contextmanager
def caller(hub, home, folder, *modules, **environment):
    """A process that speaks to a Hub: `call(module, *arguments)` calls the main of a script there, or executes code
    (`exec`), and gives exit status and output.

    `home`: its cache; `folder`: where it runs; `modules`: imported first, and every call is a fork then.
    """
    home.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *modules],
        cwd=folder,
        env=online(hub, home, HF_TOKEN=hub.token, **environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def call(module, *arguments):
        child.stdin.write(json.dumps([module, [str(argument) for argument in arguments]]) + "\n")
        child.stdin.flush()
        return json.loads(child.stdout.readline())

    try:
        yield call
    finally:
        child.kill()


def online(hub, home, **more):
    """Environment in which the Hub is `hub`, with a cache of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    return environment | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }
