"""Loads folders in a process of its own, and tells what it was seen doing: `python watched.py GOOD ADAPTED FOLDER ...`.

Prints one JSON object: folder -> how loading ended, and every event that has no business there. The hook is there from
the first line; what libraries do while they are imported is over when the good ones have been loaded once.
"""

import json
import os
import sys

NEVER = (
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.bind",
    "socket.sendto",
    "urllib.Request",
    "webbrowser.open",
)
# of no use to a loader either, once everything of the library's own has been imported
NOT_AFTER_IMPORTS = ("exec", "compile", "import", "marshal.loads", "code.__new__", "ctypes.dlopen", "socket.__new__")

IMPORTER = "<frozen importlib._bootstrap_external>"

seen: list[str] = []
watching = NEVER


def hook(event: str, arguments: tuple) -> None:
    if event == "marshal.loads" and sys._getframe(1).f_code.co_filename == IMPORTER:
        event = "compile"  # a module's, done earlier: whether it is kept depends on the machine
    if event in watching:
        # the import of what is loaded already is no event, one that fails is: optional parts of libraries
        seen.append(f"{event} {str(arguments)[:200]}")


sys.addaudithook(hook)

import unmask  # noqa: E402
from unmask.data.chat import prompt_ids  # noqa: E402
from unmask.errors import UnmaskError  # noqa: E402

HELLO = [{"role": "user", "content": "x"}]


def attempt(folder: str) -> dict:
    seen.clear()
    adapter = os.path.join(folder, "on-top")
    try:
        lm = unmask.load(folder, device="cpu", adapter=adapter if os.path.isdir(adapter) else None)
        prompt_ids(HELLO, lm.tokenizer)
        ended = f"loaded {sum(float(p.detach().abs().sum()) > 0 for p in lm.model.parameters())}"
    except UnmaskError as error:
        ended = f"{type(error).__name__}: {error}"
    except Exception as error:
        ended = f"CRASHED {type(error).__name__}: {error}"
    return {"ended": ended, "seen": list(seen)}


def provoke() -> list[str]:
    """Everything that is looked for, done on purpose."""
    import pickle
    import socket
    import subprocess

    seen.clear()
    pickle.loads(b"cbuiltins\nlen\n.")
    subprocess.run([sys.executable, "-c", ""], check=True)
    with socket.socket() as made:
        made.connect_ex(("127.0.0.1", 9))
    exec("1")
    return list(seen)


if __name__ == "__main__":
    good, adapted, *others = sys.argv[1:]
    found = {f"first {folder}": attempt(folder) for folder in (good, adapted)}
    watching = NEVER + NOT_AFTER_IMPORTS
    found |= {folder: attempt(folder) for folder in (good, adapted, *others)}
    found["on purpose"] = {"ended": "", "seen": provoke()}
    print(json.dumps(found))
