"""Runs inside a sandbox: serves a bundle's Python functions as MCP tools on stdin and stdout, or does one piece of work on the workspace.

Standard library alone. The first line on stdin is the server's: what to serve, and the secrets. After it come MCP messages, one a line. Whoever
calls a tool that does not run yet waits for all that is read and imported here: what a first call does not need lies in parts of its own.
"""
import json
import os
import sys
import threading

PROTOCOL = "2025-11-25"
HOME = "/run/nimblesite"
WORKSPACE = "/workspace"
CALLS_AT_ONCE = 4
# The tool that is none: the server ends a call with it. No bundle's tool is called so.
END = "nimblesite/end"
# Seconds that a call has to end in when it is told to.
END_SECONDS = 0.5
BUILT_INS = {"shell": "Shell", "read_file": "ReadFile", "write_file": "WriteFile", "list_files": "ListFiles"}
# Types whose values come out of JSON as they are.
PLAIN = (str, int, bool, list, dict)
PARTS = threading.RLock()


class Refused(Exception):
    """The message is for whoever asked."""


def part(name):
    """One of the runner's other files, read once."""
    with PARTS:
        module = sys.modules.get(f"nimblesite_{name}")
        if module is None:
            module = type(sys)(f"nimblesite_{name}")
            module.__file__ = f"{HOME}/{name}.py"
            with open(module.__file__, encoding="utf-8") as file:
                exec(compile(file.read(), module.__file__, "exec"), module.__dict__)
            sys.modules[module.__name__] = module
        return module


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


class Function:
    """A function of a bundle. What its hints say is looked at when someone asks, and by a call when it has others than the plain ones."""

    def __init__(self, name, function):
        self.name, self.function, self.hints = name, function, None
        kinds = [kind for name, kind in getattr(function, "__annotations__", {}).items() if name != "return"]
        self.plain = all(any(kind is known or kind == known.__name__ for known in PLAIN) for kind in kinds)

    def described(self):
        description, schema = part("hints").described(self.name, self.function)
        return {"name": self.name, "description": description, "inputSchema": schema}

    def call(self, arguments, _asked, call):
        if not self.plain:
            hints = part("hints")
            self.hints = self.hints or hints.hints_of(self.function)
            arguments = {name: hints.value_of(self.hints.get(name), value) for name, value in arguments.items()}
        result = self.function(**arguments)
        if hasattr(result, "cr_code"):
            import asyncio
            result = asyncio.run(call.awaited(result))
        if isinstance(result, str):
            return result, False
        return json.dumps(result, ensure_ascii=False, default=plain_of), False


class Ended(BaseException):
    """Raised in a call's thread when nobody waits for it any more."""


class Call:
    """One call of a function, which can be ended alone: by an exception in its thread, which comes when that next runs Python. What waits in C
    for something (a sleep, a socket, another process) does not see it; whoever asked is told, and does what must be done."""

    def __init__(self):
        self.lock, self.state, self.thread, self.task, self.done = threading.Lock(), "waiting", None, None, threading.Event()
        self.ended = False

    def begin(self):
        """Whether it is to run: it may have been ended while it waited."""
        with self.lock:
            if self.state == "waiting":
                self.state, self.thread = "running", threading.get_ident()
            return self.state == "running"

    def finish(self):
        """Its own last act: from now on nothing is raised in its thread."""
        while True:
            try:
                with self.lock:
                    self.state = "over"
                raise_in(self.thread, None)
                break
            except Ended:
                pass
        self.done.set()

    def end(self):
        """Ends it; answers whether that worked. What catches everything is told again and again."""
        import time
        until = time.monotonic() + END_SECONDS
        while True:
            with self.lock:
                self.ended = True
                if self.state != "running":
                    self.state = "over"
                    return True
                # A task of asyncio's is cancelled, which wakes it.
                if self.task:
                    loop, task = self.task
                    self.task = None
                    loop.call_soon_threadsafe(task.cancel)
                else:
                    raise_in(self.thread, Ended)
            if self.done.wait(0.05):
                return True
            if time.monotonic() > until:
                return False

    async def awaited(self, coroutine):
        import asyncio
        with self.lock:
            self.task = (asyncio.get_running_loop(), asyncio.current_task())
        try:
            return await coroutine
        finally:
            with self.lock:
                self.task = None


def raise_in(thread, exception):
    """Has a thread raise an exception when it next runs Python, or, with none, takes back what it did not raise yet."""
    import ctypes
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if exception is None else ctypes.py_object(exception))


def plain_of(value):
    if hasattr(value, "__dataclass_fields__"):
        import dataclasses
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


class Server:
    def __init__(self, task, source, out):
        self.task, self.source, self.out = task, source, out
        self.lock, self.loading = threading.Lock(), threading.Lock()
        self.ready, self.waiting, self.threads, self.resting = threading.Condition(), [], 0, 0
        self.tools, self.wrong, self.calls = None, None, {}
        self.most, self.env, self.own = task["result_bytes_max"], dict(os.environ), {}
        if task["secrets_in_shell"]:
            self.env.update(task["secrets"])

    def load(self):
        """Imports the bundle, once. What is wrong with it is told with file and line."""
        with self.loading:
            if self.tools is None and self.wrong is None:
                try:
                    for name in self.task["built_ins"]:
                        self.own[name] = getattr(part("built_in"), BUILT_INS[name])(self)
                    self.tools = {**self.functions(), **self.own}
                except Refused as refusal:
                    self.wrong = str(refusal)
                except Ended:
                    raise
                except BaseException as error:
                    self.wrong = told(error)
        if self.wrong is not None:
            raise Refused(self.wrong)
        return self.tools

    def functions(self):
        if self.task["module"] is None:
            return {}
        sys.path[:0] = ["/bundle", *(os.path.join("/bundle", folder) for folder in self.task["path"])]
        found = {}
        for tool in self.task["tools"]:
            module, _, name = tool["entry"].partition(":")
            function = getattr(imported(module), name, None)
            if not callable(function):
                raise Refused(f"{module}: there is no function {name}, which the tool {tool['name']} names")
            found[tool["name"]] = Function(tool["name"], function)
        if not self.task["tools"]:
            module = imported(self.task["module"])
            for name, function in vars(module).items():
                if isinstance(function, type(told)) and function.__module__ == module.__name__ and not name.startswith("_"):
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
        if method == "notifications/cancelled" and "shell" in self.own:
            self.own["shell"].end(params.get("requestId"))
        if asked is None:
            return
        if method == "initialize":
            info = {"name": "nimblesite-runner", "version": "1"}
            self.send({"id": asked, "result": {"protocolVersion": PROTOCOL, "capabilities": {"tools": {}}, "serverInfo": info}})
        elif method == "ping":
            self.send({"id": asked, "result": {}})
        elif method == "tools/list":
            threading.Thread(target=self.list, args=(asked,), daemon=True).start()
        elif method == "tools/call" and params.get("name") == END:
            call = self.calls.get(params["arguments"]["call"])
            threading.Thread(target=self.end, args=(asked, call), daemon=True).start()
        elif method == "tools/call":
            number = (params.get("_meta") or {}).get("nimblesite/call")
            call = self.calls[number] = Call()
            self.hand(asked, params, number, call)
        else:
            self.send({"id": asked, "error": {"code": -32601, "message": f"there is no method {method}"}})

    def hand(self, *call):
        """To a thread that rests, if there is one: where others keep the processors busy, a new one waits for its turn, and one that rested is let in."""
        with self.ready:
            self.waiting.append(call)
            if self.resting < len(self.waiting) and self.threads < CALLS_AT_ONCE:
                self.threads += 1
                threading.Thread(target=self.work, daemon=True).start()
            self.ready.notify()

    def work(self):
        while True:
            with self.ready:
                self.resting += 1
                while not self.waiting:
                    self.ready.wait()
                self.resting -= 1
                call = self.waiting.pop(0)
            try:
                self.call(*call)
            except BaseException:
                # Whoever asked learns it by waiting in vain; the thread is there for the next.
                import traceback
                traceback.print_exc()

    def list(self, asked):
        try:
            listed = [tool.described() for tool in self.load().values()]
        except Refused as refusal:
            return self.send({"id": asked, "error": {"code": -32000, "message": str(refusal)}})
        except Exception as error:
            return self.send({"id": asked, "error": {"code": -32000, "message": told(error)}})
        self.send({"id": asked, "result": {"tools": listed}})

    def call(self, asked, params, number, call):
        try:
            if not call.begin():
                return
            try:
                try:
                    text, wrong = self.run(asked, params, call)
                finally:
                    call.finish()
            except Ended:
                return call.finish()
            except BaseException as error:
                # A tool that leaves (SystemExit), or a task that was cancelled: by us, or by itself.
                if call.ended:
                    return
                text, wrong = told(error), True
            self.say(asked, text, wrong)
        finally:
            # Numbers are the server's, and never the same; who gives none cannot end one.
            self.calls.pop(number, None)

    def run(self, asked, params, call):
        try:
            tool = self.load().get(params.get("name"))
            if tool is None:
                raise Refused(f"there is no tool {params.get('name')}")
            return tool.call(params.get("arguments") or {}, asked, call)
        except Refused as refusal:
            return str(refusal), True
        except Exception as error:
            import traceback
            traceback.print_exc()
            return told(error), True

    def end(self, asked, call):
        self.say(asked, "ended" if call is None or call.end() else "running", False)

    def say(self, asked, text, wrong):
        kept = Ends(self.most)
        kept.add(text.encode("utf-8", "replace"))
        self.send({"id": asked, "result": {"content": [{"type": "text", "text": kept.text()}], "isError": wrong}})


def imported(name):
    __import__(name)
    return sys.modules[name]


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
        return part("files").one_piece_of_work(sys.argv[1], sys.argv[2:])
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