#!/usr/bin/env bash
# A watch of the Python client, kubernetes 30.1.0, has objects of the type that its function returns, V1Pod, except in
# events of the type BOOKMARK, which a watch gets that asks for them (`allow_watch_bookmarks`): there the object is a
# plain dictionary with the API's names, so that `event["object"].metadata.resource_version` raises AttributeError.
#
# Seen: "MODIFIED V1Pod 7; BOOKMARK dict 9"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet kubernetes==30.1.0
cat > "$folder/watch.py" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from kubernetes import client, watch

EVENTS = [
    {"type": "MODIFIED", "object": {"kind": "Pod", "apiVersion": "v1",
                                    "metadata": {"name": "a", "resourceVersion": "7"}}},
    {"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}},
]


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        for event in EVENTS:
            self.wfile.write(json.dumps(event).encode() + b"\n")

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
configuration = client.Configuration()
configuration.host = f"http://127.0.0.1:{server.server_port}"
pods = client.CoreV1Api(client.ApiClient(configuration)).list_namespaced_pod
options = {"namespace": "default", "allow_watch_bookmarks": True, "timeout_seconds": 5}
seen = []
for event in watch.Watch().stream(pods, **options):
    found = event["object"]
    version = found["metadata"]["resourceVersion"] if isinstance(found, dict) else found.metadata.resource_version
    seen.append(f"{event['type']} {type(found).__name__} {version}")
    if len(seen) == len(EVENTS):
        break
print("; ".join(seen))
PYTHON
seen=$("$folder/venv/bin/python" "$folder/watch.py")
echo "$seen"
[ "$seen" = "MODIFIED V1Pod 7; BOOKMARK dict 9" ]
