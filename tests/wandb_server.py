"""A stand-in for W&B's server, as far as wandb's own client needs one, and a reader of the files
that it writes offline.

What it answers was found by trying wandb 0.31 against it; the real server has never been asked.
"""

import base64
import gzip
import json
import re
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

KEY = "0123456789" * 4


class Server:
    """Listens on this machine from entering to leaving; keeps what it is sent."""

    def __init__(self) -> None:
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        """Per run the variables of its mutations, the newest of each."""
        self.summaries: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.requests = 0

    def __enter__(self) -> "Server":
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"server_": self})
        )
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be gone: connections are refused."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "e", "name": given.get("entity") or "me"}
        match re.search(r"(?:query|mutation) (\w+)", query)[1]:  # type: ignore[index]
            case "Viewer":
                return {
                    "viewer": {
                        "id": "v",
                        "entity": "me",
                        "username": "me",
                        "flags": "{}",
                        "teams": {"edges": []},
                    }
                }
            case "RunResumeStatus":
                return {
                    "model": {
                        "id": "m",
                        "name": given["project"],
                        "entity": entity,
                        "bucket": self._bucket(given["name"]),
                    }
                }
            case "UpsertBucket":
                run = self.runs.setdefault(given["name"], {})
                run |= {name: value for name, value in given.items() if value is not None}
                self.histories.setdefault(given["name"], [])
                bucket = self._bucket(given["name"]) | {
                    "project": {"id": "m", "name": given["project"], "entity": entity}
                }
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                files = [
                    {"name": name, "uploadUrl": f"{self.url}/put/{name}"} for name in given["files"]
                ]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                self.artifacts.append(given["input"])
                artifact = {
                    "id": "a",
                    "state": "PENDING",
                    "artifactSequence": {"id": "s", "latestArtifact": None},
                }
                return {"createArtifact": {"artifact": artifact}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest" as name:
                file = {
                    "id": "f",
                    "name": "manifest.json",
                    "displayName": "m",
                    "uploadUrl": f"{self.url}/put/m",
                    "uploadHeaders": [],
                }
                manifest = {"artifactManifest": {"id": "m", "file": file}}
                return {name[0].lower() + name[1:]: manifest}
            case "CreateArtifactFiles":
                nodes = [
                    self._artifact_file(spec["name"]) for spec in given["input"]["artifactFiles"]
                ]
                return {
                    "createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}
                }
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        return {}

    def _bucket(self, name: str) -> dict[str, Any] | None:
        if name not in self.runs:
            return None
        history = self.histories[name]
        tail = json.dumps([json.dumps(line) for line in history[-1:]])
        started = json.dumps({"t": {"1": [1]}})
        return {
            "id": "r", "name": name, "displayName": name, "description": "", "notes": "", "sweepName": None, "tags": [],
            "config": "{}", "wandbConfig": started, "summaryMetrics": json.dumps(self.summaries.get(name, {})),
            "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "historyLineCount": len(history), "historyTail": tail,
        }  # fmt: skip

    def _artifact_file(self, name: str) -> dict[str, Any]:
        url = f"{self.url}/put/{name}"
        return {
            "storagePath": "s",
            "uploadUrl": url,
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": "a"},
        }

    def stream(self, run: str, files: dict[str, Any]) -> None:
        self.histories[run] += [
            json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])
        ]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summaries[run] = json.loads(line)


class _Handler(BaseHTTPRequestHandler):
    server_: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self.server_.files[self.path.removeprefix("/put/")] = self._body()
        self._reply({})

    def do_POST(self) -> None:
        self.server_.requests += 1
        body = self._body()
        if self.path.endswith("/graphql"):
            if KEY not in _decoded(self.headers["Authorization"]):
                self._reply({"errors": [{"message": "invalid key"}]}, 401)
                return
            asked = json.loads(body)
            self._reply({"data": self.server_.answer(asked["query"], asked.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            self.server_.stream(self.path.split("/")[-2], json.loads(body).get("files") or {})
        self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, answer: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _decoded(authorization: str | None) -> str:
    return base64.b64decode((authorization or "").removeprefix("Basic ")).decode()


def offline_records(file: Path) -> list[wandb_internal_pb2.Record]:
    """What wandb wrote offline, as far as it is whole: LevelDB's log format, blocks of 32 KiB,
    after 7 bytes of its own.
    """
    data, at, part, found = file.read_bytes(), 7, b"", []
    while True:
        if (left := -at % 32768) < 7:
            at += left
        if at + 7 > len(data):
            return found
        # checksum, length, whole (1), first (2), middle (3) or last (4)
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + size > len(data):
            return found
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""


def offline_history(file: Path) -> list[dict[str, Any]]:
    """The lines of the log among ``offline_records``."""
    histories = [record.history for record in offline_records(file) if record.HasField("history")]
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in line.item}
        for line in histories
    ]
