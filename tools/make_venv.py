"""Make .venv for `make`: once, again when pyproject.toml changed, never twice at the same time.

    python3 tools/make_venv.py lab|test

The argument is the extra of pyproject.toml to install beside the package itself. Needs Python >= 3.11
and nothing else, and says so in one sentence when an older one starts it: hence no syntax newer than 3.6.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OLDEST = (3, 11)
HINTS = {
    "venv": "on Debian and Ubuntu, venv is a package of its own: apt-get install python3-venv",
    "pip": "pip needs a package index: is the network there? PIP_INDEX_URL and PIP_PROXY name another way",
}


def identity() -> str:
    """What an installed venv depends on.

    The checkout's place, since scripts and the editable install name it; and the text of pyproject.toml,
    not its time, which git changes.
    """
    return f"{ROOT}\n{hashlib.sha256(PYPROJECT.read_bytes()).hexdigest()}\n"


def ready(extra: str) -> bool:
    """Whether the venv is there, up to date, and has this extra (`test` contains `lab`)."""
    stamps = [VENV / ".ready-test", VENV / f".ready-{extra}"]
    return PYTHON.exists() and any(s.exists() and s.read_text() == identity() for s in stamps)


def usable() -> bool:
    """Whether there is a venv, made for this place, whose pip answers."""
    configuration = VENV / "pyvenv.cfg"
    if not PYTHON.exists() or not configuration.exists() or str(VENV) not in configuration.read_text():
        return False
    answer = subprocess.run(
        [str(PYTHON), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return answer.returncode == 0


def make(extra: str) -> None:
    """Create the venv where there is no usable one, and install. Raises CalledProcessError."""
    print("making .venv (once; about a minute) ...", file=sys.stderr, flush=True)
    for stamp in VENV.glob(".ready-*"):
        stamp.unlink()
    if not usable():
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", str(VENV)])
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    target = ["--editable", f"{ROOT}[{extra}]"]
    subprocess.check_call(
        [str(PYTHON), "-m", "pip", "install", *quiet, *target], cwd=str(ROOT), stdin=subprocess.DEVNULL
    )
    (VENV / f".ready-{extra}").write_text(identity())


def main(arguments):
    """Return 0, or the sentence that says what is wrong."""
    if sys.version_info < OLDEST:
        have = ".".join(map(str, sys.version_info[:3]))
        return f"replctl needs Python 3.11 or newer; {sys.executable} is {have}. Try: make PYTHON=python3.12"
    if arguments not in (["lab"], ["test"]):
        return "usage: make_venv.py lab|test"
    extra = arguments[0]
    if ready(extra):
        return 0
    try:
        with PYPROJECT.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when this process ends, however it ends
            if not ready(extra):  # another make may have been faster
                make(extra)
    except OSError as error:
        return f"cannot make .venv: {error}"
    except subprocess.CalledProcessError as error:
        command = " ".join(error.cmd[:4])
        hint = HINTS["pip" if "pip" in error.cmd else "venv"]
        return (
            f"cannot make .venv: '{command} ...' ended with {error.returncode}; what it said stands above.\n"
            f"hint: {hint}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
