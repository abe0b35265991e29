"""Tools of the runner's own: a shell, and the workspace's files. A part of the runner, read when a config has one of them."""
import os
import threading

from __main__ import WORKSPACE, Ends, part

SHELL_SECONDS = 60
FILES_LISTED_MAX = 1000


def object_of(properties, needed):
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


class BuiltIn:
    def __init__(self, server):
        self.most, self.env, self.running = server.most, server.env, {}

    def described(self):
        return {"name": self.name, "description": self.description, "inputSchema": self.schema}


class Shell(BuiltIn):
    name = "shell"
    description = ("Runs a command line in the workspace with bash or sh, and returns what it prints. "
                   "Files in the workspace stay from call to call.")
    schema = object_of({"command": {"type": "string", "description": "The command line."},
                        "timeout_s": {"type": "integer", "minimum": 1, "maximum": 600, "default": SHELL_SECONDS,
                                      "description": "Seconds after which it is ended."}}, ["command"])

    def call(self, arguments, call, _):
        import subprocess
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        process = subprocess.Popen([shell, "-c", arguments["command"]], cwd=WORKSPACE, env=self.env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.running[call] = process
        kept = Ends(self.most)
        reader = threading.Thread(target=kept.read_all, args=(process.stdout,), daemon=True)
        reader.start()
        seconds = arguments.get("timeout_s", SHELL_SECONDS)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end(call)
            process.wait()
            reader.join(1)
            return f"{kept.text()}\n[ended after {seconds} s]", True
        finally:
            self.running.pop(call, None)
        # What it left running in the background may hold the pipe; it is not waited for.
        reader.join(0.5)
        return (kept.text(), False) if code == 0 else (f"{kept.text()}\n[exit code {code}]", True)

    def end(self, call):
        import signal
        process = self.running.get(call)
        if process:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class ReadFile(BuiltIn):
    name = "read_file"
    description = "Reads a file of the workspace as text."
    schema = object_of({"path": {"type": "string", "description": "From the workspace's top."},
                        "offset": {"type": "integer", "minimum": 0, "default": 0, "description": "The first byte to read."}}, ["path"])

    def call(self, arguments, _asked, _call):
        files = part("files")
        with files.open_plain(files.inside(arguments["path"])) as file:
            file.seek(arguments.get("offset", 0))
            data = file.read(self.most + 1)
            if len(data) <= self.most:
                return data.decode("utf-8", "replace"), False
            end, size = arguments.get("offset", 0) + self.most, os.fstat(file.fileno()).st_size
            return data[:self.most].decode("utf-8", "replace") + f"\n[{size} bytes in all; go on with offset {end}]", False


class WriteFile(BuiltIn):
    name = "write_file"
    description = "Writes a text file in the workspace, with the folders on its way."
    schema = object_of({"path": {"type": "string", "description": "From the workspace's top."}, "content": {"type": "string"},
                        "append": {"type": "boolean", "default": False, "description": "Adds to the file's end."}}, ["path", "content"])

    def call(self, arguments, _asked, _call):
        size = part("files").write_file(arguments["path"], [arguments["content"].encode()], arguments.get("append", False))
        return f"{size} bytes written to {arguments['path']}", False


class ListFiles(BuiltIn):
    name = "list_files"
    description = "Lists a folder of the workspace with everything below it: bytes and path."
    schema = object_of({"path": {"type": "string", "default": ".", "description": "From the workspace's top."}}, [])

    def call(self, arguments, _asked, _call):
        files, lines = part("files"), []
        for name, facts, _, _ in files.entries(files.inside(arguments.get("path", "."))):
            if len(lines) == FILES_LISTED_MAX:
                lines.append("[and more]")
                break
            end = {"folder": "/", "link": " (link)", "other": " (no file)"}.get(files.kind_of(facts), "")
            lines.append(f"{facts.st_size:>12}  {name}{end}")
        return "\n".join(lines) or "[empty]", False
