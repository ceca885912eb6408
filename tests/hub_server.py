"""A Hub in miniature: the part of its HTTP interface that huggingface_hub calls to push and pull, over files in memory.

Written after what huggingface_hub 2.4 sends: POST /api/repos/create, GET /api/models/REPO[/revision/R], POST
/api/validate-yaml, POST .../preupload/R, Git LFS's batch with PUT, POST .../commit/R (lines of JSON), GET .../tree/R,
HEAD and GET /REPO/resolve/R/PATH.
"""

import base64
import hashlib
import json
import os
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
    of what would be; `requests` are those that came. A Space is called spaces/user/name."""

    daemon_threads = True

    def __init__(self, user="me", token="hf_right"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.user, self.token = user, token
        self.repositories, self.objects, self.answers, self.requests = {}, {}, {}, []
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

    def reply(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
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
