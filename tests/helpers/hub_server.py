"""A small Hub on localhost: the calls that `huggingface_hub` makes to push and pull a model, without Xet."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_test"
PART = 16 * 1024  # larger objects are uploaded in parts of this size


class Hub(ThreadingHTTPServer):
    """
    A server that keeps repositories in memory: `files[name]` maps the paths of the newest commit to their contents.

    Set `fail` to a function of the method and the path of a request to make requests fail. If it returns a status, the
    server answers with that status; if it returns "cut", the server closes the connection in the middle of the request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[str]] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[str] = []
        self.fail = None

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def commit(self, name: str, changes: dict[str, bytes | None]) -> str:
        files = self.files.setdefault(name, {})
        for path, content in changes.items():
            if content is None:
                del files[path]
            else:
                files[path] = content
        commits = self.commits.setdefault(name, [])
        commits.append(hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest())
        return commits[-1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_POST(self):
        body = self.start()
        if body is None:
            return None
        if self.parts[:3] == ["api", "repos", "create"]:
            return self.create(json.loads(body))
        if self.parts[:2] == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if self.parts[:1] == ["lfs"]:  # all parts of an object have arrived
            parts = [self.server.parts[self.parts[1], part["partNumber"]] for part in json.loads(body)["parts"]]
            return self.keep(self.parts[1], b"".join(parts))
        if self.parts[2:] == ["info", "lfs", "objects", "batch"]:
            return self.answer({"transfer": "basic", "objects": [*map(self.upload, json.loads(body)["objects"])]})
        name, action = "/".join(self.parts[2:4]), self.parts[4]
        if action == "preupload":
            files = [self.preupload(file) for file in json.loads(body)["files"]]
            return self.answer({"files": files})
        if action == "commit":
            return self.commit(name, [json.loads(line) for line in body.splitlines()])
        return self.answer({"error": f"unexpected {self.path}"}, 404)

    def do_PUT(self):
        body = self.start()
        if body is None:
            return None
        if len(self.parts) == 3:
            self.server.parts[self.parts[1], int(self.parts[2])] = body
            return self.answer({}, headers={"ETag": hashlib.md5(body).hexdigest()})
        return self.keep(self.parts[1], body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.start() is None:
            return None
        if self.parts[0] == "api":
            name = "/".join(self.parts[2:4])
            if name not in self.server.files:
                return self.missing("RepoNotFound")
            files, commit = self.server.files[name], self.server.commits[name][-1]
            if self.parts[4:5] == ["tree"]:
                return self.tree(files, "/".join(self.parts[6:]))
            siblings = [{"rfilename": path} for path in files]
            return self.answer({"id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings})
        name, path = "/".join(self.parts[:2]), "/".join(self.parts[4:])
        if name not in self.server.files:
            return self.missing("RepoNotFound")
        if path not in self.server.files[name]:
            return self.missing("EntryNotFound", name)
        content = self.server.files[name][path]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.server.commits[name][-1]}
        return self.answer(content, headers=headers)

    def start(self) -> bytes | None:
        """Read a request and return its body, or `None` if the request has failed."""
        self.url = urlsplit(self.path)
        self.parts = [unquote(part) for part in self.url.path.strip("/").split("/")]
        self.server.requests.append(f"{self.command} {self.url.path}")
        failure = self.server.fail(self.command, self.url.path) if self.server.fail else None
        length = int(self.headers.get("Content-Length") or 0)
        if failure == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return None
        body = self.rfile.read(length)
        if failure:
            self.answer({"error": "the server has a problem"}, failure)
            return None
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.command == "POST" and self.parts[0] == "api" and token != TOKEN:
            self.answer({"error": "Invalid username or password."}, 401)
            return None
        return body

    def create(self, request):
        name = request["name"] if "/" in request["name"] else f"{request.get('organization') or 'me'}/{request['name']}"
        url = {"url": f"{self.server.url}/{name}", "id": name, "name": name}
        if name in self.server.files:
            return self.answer(url | {"error": "You already created this model repo"}, 409)
        self.server.commit(name, {})
        return self.answer(url)

    def preupload(self, file):
        large = file["path"].endswith((".safetensors", ".png"))
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def upload(self, wanted):
        """Say where to send an object: nowhere if the server has it, to one address, or in parts to several."""
        oid, size = wanted["oid"], wanted["size"]
        url = f"{self.server.url}/lfs/{oid}"
        if oid in self.server.objects:
            return wanted
        if size <= PART:
            return wanted | {"actions": {"upload": {"href": url}}}
        parts = {str(number): f"{url}/{number}" for number in range(1, -(-size // PART) + 1)}
        return wanted | {"actions": {"upload": {"href": url, "header": {"chunk_size": str(PART), **parts}}}}

    def keep(self, oid, content):
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer({"error": "the content is not what its name says"}, 400)
        self.server.objects[oid] = content
        return self.answer({})

    def commit(self, name, lines):
        changes = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                changes[value["path"]] = None
        commit = self.server.commit(name, changes)
        return self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}"})

    def tree(self, files, folder):
        below = {path: content for path, content in files.items() if path.startswith(folder)}
        if folder and not below:
            return self.missing("EntryNotFound")
        if "recursive" not in parse_qs(self.url.query):
            below = {path: content for path, content in below.items() if "/" not in path[len(folder) + 1 :]}
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in below.items()
        ]
        return self.answer(entries)

    def missing(self, code, name=None):
        """Answer 404 and name the commit: the client caches that this commit lacks the file, to know it offline."""
        headers = {"X-Error-Code": code}
        if name in self.server.commits:
            headers["X-Repo-Commit"] = self.server.commits[name][-1]
        return self.answer({"error": f"{code}: {self.path}"}, 404, headers)

    def answer(self, content, status=200, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        pass
