"""The smallest whole MCP server: newline-delimited JSON-RPC on standard input and output, no library. It counts in a file of its workspace, and
unlocks with a secret."""

import json
import os
import pathlib
import sys

COUNT = pathlib.Path("count.txt")
TOOLS = [
    {
        "name": "count",
        "description": "Counts on, and says how far it is.",
        "inputSchema": {
            "type": "object",
            "properties": {"times": {"type": "integer", "minimum": 1, "maximum": 100, "default": 1}},
            "additionalProperties": False,
        },
    },
    {
        "name": "unlock",
        "description": "Says whether a word is the counter's key.",
        "inputSchema": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"], "additionalProperties": False},
    },
]


def call(name, arguments):
    if name == "count":
        count = int(COUNT.read_text()) if COUNT.exists() else 0
        count += int(os.environ.get("COUNTER_STEP", "1")) * arguments.get("times", 1)
        COUNT.write_text(str(count))
        return f"The counter is at {count}.", False
    if name == "unlock":
        return ("It is.", False) if arguments["word"] == os.environ.get("COUNTER_KEY") else ("It is not.", False)
    return f"There is no tool {name}.", True


def answer(method, params):
    if method == "initialize":
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "counter", "version": "1.0.0"}}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        text, is_error = call(params["name"], params.get("arguments") or {})
        return {"content": [{"type": "text", "text": text}], "isError": is_error}
    if method == "ping":
        return {}
    return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    result = answer(message["method"], message.get("params") or {})
    reply = {"result": result} if result is not None else {"error": {"code": -32601, "message": f"there is no method {message['method']}"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}), flush=True)
