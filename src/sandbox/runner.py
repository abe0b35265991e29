"""Runs inside a sandbox: serves a bundle's Python functions as MCP tools on stdin and stdout, or does one piece of work on the workspace.

Standard library alone. The first line on stdin is the server's: what to serve, and the secrets. After it come MCP messages, one a line.
"""
import json
import os
import sys
import threading

PROTOCOL = "2025-11-25"
WORKSPACE = "/workspace"
CALLS_AT_ONCE = 4
SHELL_SECONDS = 60
FILES_LISTED_MAX = 1000
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The message is for whoever asked."""


# ---- what the workspace's files are asked for, from outside and by tools -------------------------------------------------------------


def inside(path):
    """A path of the workspace, links followed; anything else is refused."""
    if "\0" in path:
        raise Refused("a path has no NUL")
    real = os.path.realpath(os.path.join(WORKSPACE, path))
    if real != WORKSPACE and not real.startswith(WORKSPACE + "/"):
        raise Refused(f"{path} is outside the workspace")
    return real


def open_plain(path, folder=None):
    """Opens a file to read, and nothing that could make the reader wait or be followed elsewhere."""
    import stat
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{os.path.basename(path) or 'the workspace'} is no plain file")
    return os.fdopen(fd, "rb")


def write_file(path, chunks, append=False):
    real = inside(path)
    os.makedirs(os.path.dirname(real), exist_ok=True)
    if os.path.lexists(real) and not os.path.isfile(real):
        raise Refused(f"{path} is no plain file")
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    size = 0
    with os.fdopen(os.open(real, flags, 0o644), "wb") as file:
        for chunk in chunks:
            size += len(chunk)
            file.write(chunk)
    return size


def entries(top):
    """Everything below a folder: path from the workspace, facts, and where it lies: a folder's descriptor and a name in it, so that nothing
    that is moved or replaced meanwhile leads elsewhere. Links are named and never followed."""
    try:
        folder = os.open(top, FOLDER)
    except OSError:
        return
    yield from entries_of(folder, os.path.relpath(top, WORKSPACE))


def entries_of(folder, path):
    try:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            return
        for name in names:
            try:
                facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                continue
            below = os.path.normpath(os.path.join(path, name))
            yield below, facts, folder, name
            if kind_of(facts) == "folder":
                try:
                    inner = os.open(name, FOLDER, dir_fd=folder)
                except OSError:
                    continue
                yield from entries_of(inner, below)
    finally:
        os.close(folder)


def kind_of(facts):
    import stat
    for kind, is_kind in (("file", stat.S_ISREG), ("folder", stat.S_ISDIR), ("link", stat.S_ISLNK)):
        if is_kind(facts.st_mode):
            return kind
    return "other"


def chunks_of(file):
    return iter(lambda: file.read(65536), b"")


class Exactly:
    """A file as long as it was when the archive said so, whatever happens to it meanwhile."""

    def __init__(self, file, size):
        self.file, self.left = file, size

    def read(self, size):
        size = min(size, self.left)
        data = self.file.read(size)
        self.left -= size
        return data + b"\0" * (size - len(data))


def snapshot(out):
    """The workspace as a tar stream: files, folders and links as such. What is something else stays behind."""
    import tarfile
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path, facts, folder, name in entries(WORKSPACE):
            member = tarfile.TarInfo(path)
            member.mtime, member.mode = int(facts.st_mtime), facts.st_mode & 0o777
            kind = kind_of(facts)
            try:
                if kind == "folder":
                    member.type = tarfile.DIRTYPE
                    archive.addfile(member)
                elif kind == "link":
                    member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=folder)
                    archive.addfile(member)
                elif kind == "file":
                    with open_plain(name, folder) as file:
                        member.size = os.fstat(file.fileno()).st_size
                        archive.addfile(member, Exactly(file, member.size))
            except (Refused, OSError) as error:
                if getattr(error, "errno", None) in (28, 32):
                    raise


def restore(source):
    """A tar stream into the workspace, over what is there: of an entry that is there already, the archive's stays."""
    import shutil
    import tarfile
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for member in archive:
            name = os.path.normpath(member.name)
            if os.path.isabs(name) or name == ".." or name.startswith("../"):
                raise Refused(f"{member.name} is outside the workspace")
            parent, path = inside(os.path.dirname(name)), os.path.join(WORKSPACE, name)
            os.makedirs(parent, exist_ok=True)
            if name == "." or not (member.isdir() or member.issym() or member.isfile()):
                continue
            folder = os.path.isdir(path) and not os.path.islink(path)
            if member.isdir():
                if os.path.lexists(path) and not folder:
                    os.unlink(path)
                os.makedirs(path, exist_ok=True)
            else:
                if folder:
                    shutil.rmtree(path)
                elif os.path.lexists(path):
                    os.unlink(path)
                if member.issym():
                    os.symlink(member.linkname, path)
                else:
                    write_file(name, chunks_of(archive.extractfile(member)))
                    os.chmod(path, member.mode & 0o777 | 0o600)


def one_piece_of_work(work, args):
    out, source = sys.stdout.buffer, sys.stdin.buffer
    try:
        if work == "snapshot":
            snapshot(out)
        elif work == "restore":
            restore(source)
        elif work == "read":
            with open_plain(inside(args[0])) as file:
                for chunk in chunks_of(file):
                    out.write(chunk)
        elif work == "write":
            write_file(args[0], chunks_of(source))
        elif work == "list":
            for count, (path, facts, _, _) in enumerate(entries(inside(args[0]))):
                if count == int(args[1]):
                    break
                line = {"path": path.encode("utf-8", "replace").decode(), "kind": kind_of(facts), "bytes": facts.st_size, "changed": int(facts.st_mtime * 1000)}
                out.write(json.dumps(line).encode() + b"\n")
        out.flush()
    except Refused as refusal:
        sys.exit(fail(2, refusal))
    except FileNotFoundError:
        sys.exit(fail(2, f"there is no {args[0] if args else 'such file'}"))
    except OSError as error:
        sys.exit(fail(28 if error.errno in (28, 122) else 2, error))
    except Exception as error:
        sys.exit(fail(2, f"{type(error).__name__}: {error}"))


def fail(code, why):
    sys.stderr.write(f"{why}\n")
    return code


# ---- functions as tools --------------------------------------------------------------------------------------------------------------


def schema_of(hint, seen=()):
    """A type hint as JSON Schema. None of Python's names reach the model: it sees what JSON can say."""
    import dataclasses
    import enum
    import types
    import typing
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", bytes: None}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any or hint is object:
        return {}
    if isinstance(hint, type) and hint in plain and plain[hint]:
        return {"type": plain[hint]}
    if origin is typing.Annotated:
        schema = schema_of(args[0], seen)
        said = [word for word in args[1:] if isinstance(word, str)]
        return {**schema, "description": said[0]} if said else schema
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is typing.Union or origin is getattr(types, "UnionType", ()):
        return {"anyOf": [schema_of(arg, seen) for arg in args]}
    if origin in (list, set, frozenset) or hint in (list, set, frozenset):
        schema = {"type": "array", "items": schema_of(args[0], seen)} if args else {"type": "array"}
        return schema if (origin or hint) is list else {**schema, "uniqueItems": True}
    if origin is tuple or hint is tuple:
        if not args or args[-1] is Ellipsis:
            return {"type": "array", **({"items": schema_of(args[0], seen)} if args else {})}
        return {"type": "array", "prefixItems": [schema_of(arg, seen) for arg in args], "minItems": len(args), "maxItems": len(args)}
    if origin is dict or hint is dict:
        if args and args[0] is not str:
            raise Refused("a dict's keys must be str: JSON has no others")
        return {"type": "object", **({"additionalProperties": schema_of(args[1], seen)} if args else {})}
    if hint in seen:
        raise Refused(f"{hint.__name__} contains itself, which a tool's schema cannot say here")
    if isinstance(hint, type):
        within = (*seen, hint)
        if issubclass(hint, enum.Enum):
            return {"enum": [member.value for member in hint]}
        if hasattr(hint, "model_json_schema"):
            return hint.model_json_schema()
        if dataclasses.is_dataclass(hint):
            hints = typing.get_type_hints(hint, include_extras=True)
            fields = [field for field in dataclasses.fields(hint) if field.init]
            needed = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
            return object_of({field.name: schema_of(hints[field.name], within) for field in fields}, needed)
        if hasattr(hint, "__total__") and hasattr(hint, "__required_keys__"):
            hints = typing.get_type_hints(hint)
            return object_of({name: schema_of(one, within) for name, one in hints.items()}, sorted(hint.__required_keys__))
    raise Refused(f"the type {getattr(hint, '__name__', hint)} has no JSON form; use str, int, float, bool, list, dict, Literal, Enum, "
                  "a dataclass, a TypedDict or a pydantic model")


def object_of(properties, needed):
    return {"type": "object", "properties": properties, "required": list(needed), "additionalProperties": False}


def value_of(hint, value):
    """What came as JSON, as the function wants it."""
    import dataclasses
    import enum
    import types
    import typing
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return value_of(args[0], value)
    if origin is typing.Union or origin is getattr(types, "UnionType", ()):
        fitting = [arg for arg in args if arg is type(value)] or [arg for arg in args if arg is not type(None)]
        return None if value is None or not fitting else value_of(fitting[0], value)
    if origin in (list, set, frozenset, tuple) and isinstance(value, list) and args:
        hints = args if origin is tuple and args[-1] is not Ellipsis else [args[0]] * len(value)
        return origin(value_of(one, item) for one, item in zip(hints, value))
    if hint in (set, frozenset, tuple) and isinstance(value, list):
        return hint(value)
    if origin is dict and isinstance(value, dict) and args:
        return {key: value_of(args[1], item) for key, item in value.items()}
    if isinstance(hint, type):
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if issubclass(hint, enum.Enum):
            return hint(value)
        if hasattr(hint, "model_validate"):
            return hint.model_validate(value)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            hints = typing.get_type_hints(hint, include_extras=True)
            return hint(**{name: value_of(hints[name], item) for name, item in value.items()})
    return value


def words_of(function):
    """A docstring's first part, and what it says of each argument below `Args:`."""
    import inspect
    text = inspect.getdoc(function) or ""
    head, _, rest = text.partition("\nArgs:")
    said, last = {}, None
    for line in rest.splitlines():
        if line and not line[0].isspace():
            break
        name, colon, words = line.strip().partition(":")
        name = name.split("(")[0].strip()
        if colon and name.isidentifier() and len(line) - len(line.lstrip()) <= 4:
            said[name], last = words.strip(), name
        elif last and line.strip():
            said[last] += " " + line.strip()
    return head.strip(), said


class Function:
    def __init__(self, name, function):
        import inspect
        import typing
        self.name, self.function = name, function
        where = f"{place_of(function)}: {name}"
        try:
            self.hints = typing.get_type_hints(function, include_extras=True)
        except Exception as error:
            raise Refused(f"{where}: its type hints cannot be read: {error}") from None
        self.description, said = words_of(function)
        properties, needed = {}, []
        for argument in inspect.signature(function).parameters.values():
            if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
                raise Refused(f"{where}: a tool takes named arguments alone, and {argument} is none")
            if argument.name not in self.hints:
                raise Refused(f"{where}: the argument {argument.name} has no type hint")
            try:
                schema = schema_of(self.hints[argument.name])
            except Refused as refusal:
                raise Refused(f"{where}: the argument {argument.name}: {refusal}") from None
            if argument.name in said:
                schema = {**schema, "description": said[argument.name]}
            if argument.default is argument.empty:
                needed.append(argument.name)
            elif isinstance(argument.default, (str, int, float, bool, list, dict)):
                schema = {**schema, "default": argument.default}
            properties[argument.name] = schema
        self.schema = object_of(properties, needed)

    def call(self, arguments, _call):
        import inspect
        result = self.function(**{name: value_of(self.hints.get(name), value) for name, value in arguments.items()})
        if inspect.iscoroutine(result):
            import asyncio
            result = asyncio.run(result)
        if isinstance(result, str):
            return result, False
        return json.dumps(result, ensure_ascii=False, default=plain_of), False


def plain_of(value):
    import dataclasses
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def place_of(function):
    code = getattr(function, "__code__", None)
    return f"{short(code.co_filename)}:{code.co_firstlineno}" if code else getattr(function, "__module__", "?")


def short(path):
    return path[len("/bundle/"):] if path.startswith("/bundle/") else path


# ---- tools of our own ----------------------------------------------------------------------------------------------------------------


class Shell:
    name = "shell"
    description = ("Runs a command line in the workspace with bash or sh, and returns what it prints. There is no network. "
                   "Files in the workspace stay from call to call.")
    schema = object_of({"command": {"type": "string", "description": "The command line."},
                        "timeout_s": {"type": "integer", "minimum": 1, "maximum": 600, "default": SHELL_SECONDS,
                                      "description": "Seconds after which it is ended."}}, ["command"])

    def __init__(self, env, most):
        self.env, self.most, self.running = env, most, {}

    def call(self, arguments, call):
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


class Ends:
    """The beginning and the end of a stream, however long it is."""

    def __init__(self, most):
        self.most, self.head, self.tail, self.dropped = max(most, 1024), bytearray(), bytearray(), 0

    def read_all(self, stream):
        with stream:
            for chunk in iter(lambda: os.read(stream.fileno(), 65536), b""):
                self.add(chunk)

    def add(self, chunk):
        half = self.most // 2
        room = half - len(self.head)
        self.head += chunk[:max(room, 0)]
        self.tail += chunk[max(room, 0):]
        excess = len(self.tail) - half
        if excess > 0:
            self.dropped += excess
            del self.tail[:excess]

    def text(self):
        mark = f"\n[truncated {self.dropped} bytes]\n".encode() if self.dropped else b""
        return bytes(self.head + mark + self.tail).decode("utf-8", "replace")


class ReadFile:
    name = "read_file"
    description = "Reads a file of the workspace as text."
    schema = object_of({"path": {"type": "string", "description": "From the workspace's top."},
                        "offset": {"type": "integer", "minimum": 0, "default": 0, "description": "The first byte to read."}}, ["path"])

    def __init__(self, most):
        self.most = most

    def call(self, arguments, _call):
        with open_plain(inside(arguments["path"])) as file:
            file.seek(arguments.get("offset", 0))
            data = file.read(self.most + 1)
            if len(data) <= self.most:
                return data.decode("utf-8", "replace"), False
            end, size = arguments.get("offset", 0) + self.most, os.fstat(file.fileno()).st_size
            return data[:self.most].decode("utf-8", "replace") + f"\n[{size} bytes in all; go on with offset {end}]", False


class WriteFile:
    name = "write_file"
    description = "Writes a text file in the workspace, with the folders on its way."
    schema = object_of({"path": {"type": "string", "description": "From the workspace's top."}, "content": {"type": "string"},
                        "append": {"type": "boolean", "default": False, "description": "Adds to the file's end."}}, ["path", "content"])

    def call(self, arguments, _call):
        size = write_file(arguments["path"], [arguments["content"].encode()], arguments.get("append", False))
        return f"{size} bytes written to {arguments['path']}", False


class ListFiles:
    name = "list_files"
    description = "Lists a folder of the workspace with everything below it: bytes and path."
    schema = object_of({"path": {"type": "string", "default": ".", "description": "From the workspace's top."}}, [])

    def call(self, arguments, _call):
        lines = []
        for name, facts, _, _ in entries(inside(arguments.get("path", "."))):
            if len(lines) == FILES_LISTED_MAX:
                lines.append("[and more]")
                break
            end = {"folder": "/", "link": " (link)", "other": " (no file)"}.get(kind_of(facts), "")
            lines.append(f"{facts.st_size:>12}  {name}{end}")
        return "\n".join(lines) or "[empty]", False


# ---- MCP -----------------------------------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, task, source, out):
        self.task, self.source, self.out = task, source, out
        self.lock, self.loading, self.places = threading.Lock(), threading.Lock(), threading.Semaphore(CALLS_AT_ONCE)
        self.tools, self.wrong = None, None
        most, env = task["result_bytes_max"], dict(os.environ)
        if task["secrets_in_shell"]:
            env.update(task["secrets"])
        self.most, self.shell = most, Shell(env, most)
        self.own = {tool.name: tool for tool in (self.shell, ReadFile(most), WriteFile(), ListFiles()) if tool.name in task["built_ins"]}

    def load(self):
        """Imports the bundle, once. What is wrong with it is told with file and line."""
        with self.loading:
            if self.tools is None and self.wrong is None:
                try:
                    self.tools = {**self.functions(), **self.own}
                except Refused as refusal:
                    self.wrong = str(refusal)
                except BaseException as error:
                    self.wrong = told(error)
        if self.wrong is not None:
            raise Refused(self.wrong)
        return self.tools

    def functions(self):
        import importlib
        import inspect
        if self.task["module"] is None:
            return {}
        sys.path[:0] = ["/bundle", *(os.path.join("/bundle", folder) for folder in self.task["path"])]
        found = {}
        for tool in self.task["tools"]:
            module, _, name = tool["entry"].partition(":")
            function = getattr(importlib.import_module(module), name, None)
            if not callable(function):
                raise Refused(f"{module}: there is no function {name}, which the tool {tool['name']} names")
            found[tool["name"]] = Function(tool["name"], function)
        if not self.task["tools"]:
            module = importlib.import_module(self.task["module"])
            for name, function in vars(module).items():
                if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
                    found[name] = Function(name, function)
        return found

    def send(self, message):
        line = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self.lock:
            while line:
                line = line[os.write(self.out, line):]

    def serve(self):
        for line in self.source:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if "method" in message:
                self.answer(message)

    def answer(self, message):
        method, asked, params = message["method"], message.get("id"), message.get("params") or {}
        if method == "notifications/cancelled":
            self.shell.end(params.get("requestId"))
        if asked is None:
            return
        if method == "initialize":
            info = {"name": "nimblesite-runner", "version": "1"}
            self.send({"id": asked, "result": {"protocolVersion": PROTOCOL, "capabilities": {"tools": {}}, "serverInfo": info}})
        elif method == "ping":
            self.send({"id": asked, "result": {}})
        elif method == "tools/list":
            threading.Thread(target=self.list, args=(asked,), daemon=True).start()
        elif method == "tools/call":
            threading.Thread(target=self.call, args=(asked, params), daemon=True).start()
        else:
            self.send({"id": asked, "error": {"code": -32601, "message": f"there is no method {method}"}})

    def list(self, asked):
        try:
            tools = self.load().values()
        except Refused as refusal:
            self.send({"id": asked, "error": {"code": -32000, "message": str(refusal)}})
            return
        listed = [{"name": tool.name, "description": tool.description, "inputSchema": tool.schema} for tool in tools]
        self.send({"id": asked, "result": {"tools": listed}})

    def call(self, asked, params):
        with self.places:
            try:
                tool = self.load().get(params.get("name"))
                if tool is None:
                    raise Refused(f"there is no tool {params.get('name')}")
                text, wrong = tool.call(params.get("arguments") or {}, asked)
            except Refused as refusal:
                text, wrong = str(refusal), True
            except Exception as error:
                import traceback
                traceback.print_exc()
                text, wrong = told(error), True
        kept = Ends(self.most)
        kept.add(text.encode("utf-8", "replace"))
        self.send({"id": asked, "result": {"content": [{"type": "text", "text": kept.text()}], "isError": wrong}})


def told(error):
    """An error with the last line of the bundle that had a part in it."""
    import traceback
    if isinstance(error, SyntaxError) and error.filename:
        return f"{short(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("/bundle/")]
    where = f"{short(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    return f"{where}{type(error).__name__}: {error}"


def hide():
    """Makes this process one that its own children cannot look into: its memory has the secrets."""
    import ctypes
    if ctypes.CDLL(None, use_errno=True).prctl(4, 0, 0, 0, 0) != 0:
        sys.exit("the runner could not hide its memory")


def main():
    if len(sys.argv) > 1:
        return one_piece_of_work(sys.argv[1], sys.argv[2:])
    hide()
    # The protocol gets descriptors of its own; whatever a tool or its children print goes to stderr.
    source, out = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    task = json.loads(source.readline())
    server = Server(task, source, out)
    # Not in the block that the process was started with: /proc shows that, and this never.
    os.environ.update(task["secrets"])
    server.serve()
    # Calls that still run end with us: nobody reads what they would say.
    sys.stderr.flush()
    os._exit(0)


main()
