"""The workspace's files, as they are asked for from outside and by tools. A part of the runner, read when it is needed."""
import os
import sys

from __main__ import WORKSPACE, Refused

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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


def packed(out):
    """The same, compressed: quickly, since whoever waits pays for it, and with nothing in it of when."""
    import gzip
    with gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=1, mtime=0) as file:
        snapshot(file)


def mark():
    """What stands for the workspace as it is now: another one whenever something was made, written, renamed or removed."""
    import hashlib
    digest = hashlib.sha256()
    for path, facts, _, _ in entries(WORKSPACE):
        line = (path, facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        digest.update(repr(line).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def restore(source):
    """A tar stream, compressed or not, into the workspace, over what is there: of an entry that is there already, the archive's stays."""
    import shutil
    import tarfile
    with tarfile.open(fileobj=source, mode="r|*") as archive:
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
        elif work == "packed":
            packed(out)
        elif work == "mark":
            out.write(mark().encode())
        elif work == "restore":
            restore(source)
        elif work == "read":
            with open_plain(inside(args[0])) as file:
                for chunk in chunks_of(file):
                    out.write(chunk)
        elif work == "write":
            write_file(args[0], chunks_of(source))
        elif work == "list":
            import json
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
