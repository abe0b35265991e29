"""Tools of a notebook: every public function of this file is one. Its type hints become the JSON Schema of its arguments, its docstring tells the
model what it is for. Files are kept in the workspace, where the tools begin, from call to call and from turn to turn."""

import hashlib
import hmac
import os
import pathlib


def note_write(name: str, text: str) -> str:
    """Write a note, in place of one of the same name.

    Args:
        name: A word or two.
        text: What to remember.
    """
    _file(name).write_text(text)
    return f"Noted {len(text)} characters as {name}."


def note_read(name: str) -> str:
    """Read a note.

    Args:
        name: Its name.
    """
    try:
        return _file(name).read_text()
    except FileNotFoundError:
        raise ValueError(f"There is no note {name}. There are: {', '.join(note_list()) or 'none'}.") from None


def note_list() -> list[str]:
    """List the names of all notes."""
    return sorted(path.stem for path in pathlib.Path("notes").glob("*.txt"))


def note_sign(name: str) -> str:
    """Sign a note with the notebook's key, so that others can tell that it is ours.

    Args:
        name: Its name.
    """
    # A secret is in the environment of the tools alone: no model, no client and no log sees it.
    key = os.environ["NOTEBOOK_KEY"].encode()
    return hmac.new(key, note_read(name).encode(), hashlib.sha256).hexdigest()


def _file(name: str) -> pathlib.Path:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError("A name has letters, digits, - and _ alone.")
    folder = pathlib.Path("notes")
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.txt"
