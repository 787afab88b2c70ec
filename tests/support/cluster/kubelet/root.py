"""Inside a container's namespaces: a root folder of its own over this machine's files, its volumes, then its program.

Called by path, with a JSON file: {"folder", "mounts": [[source, target, read-only]], "keep": [paths], "cwd", "env",
"command"}. Writes of the container go into `folder` and never into the machine's own files.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

MS_BIND, MS_REC, MS_RDONLY, MS_REMOUNT = 4096, 16384, 1, 32
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "none", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    if LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def keep(root: Path, paths: list[str]) -> None:
    """Bring in what is not in the root folder: what lies on a file system of its own is not in the overlay."""
    for path in sorted(paths, key=len):  # a folder before what is in it
        if not os.path.lexists(f"{root}{path}"):
            Path(f"{root}{path}").mkdir(parents=True)
            mount(path, f"{root}{path}", flags=MS_BIND)


def main(file: str) -> None:
    """Never returns."""
    spec = json.loads(Path(file).read_text())
    folder = Path(spec["folder"])
    root = folder / "root"
    for name in ("root", "upper", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mount("overlay", str(root), "overlay", 0, f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}")
    for path in ("/proc", "/sys", "/dev"):
        mount(path, f"{root}{path}", flags=MS_BIND | MS_REC)
    keep(root, spec["keep"])
    for source, target, read_only in spec["mounts"]:
        # An absolute link on the way (/var/run) would lead out of the new root.
        place = f"{root}{os.path.realpath(target)}"
        if Path(source).is_dir():
            Path(place).mkdir(parents=True, exist_ok=True)
        else:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).touch()
        mount(source, place, flags=MS_BIND)
        if read_only:
            mount(source, place, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
    keep(root, spec["keep"])  # a volume at /tmp hides what lies there
    os.chroot(root)
    os.chdir(spec["cwd"])
    try:
        os.execvpe(spec["command"][0], spec["command"], spec["env"])
    except OSError as error:
        sys.stderr.write(f"{spec['command'][0]}: {error.strerror}\n")
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1])
