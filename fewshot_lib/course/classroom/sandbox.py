"""Somebody else's code in a child of this process, where it can harm nothing: for `fewshot grade`.

The child gets its own time, memory, number of processes and size of files. On Linux it also gets a world of
its own: a root directory with Python and the library alone, read-only, an empty 64 MB of scratch space, no
network, no other process in sight, no rights. Where the system does not allow such worlds (it is no Linux,
or forbids user namespaces), a hook of the interpreter refuses what would reach outside: that stops an
accident and a prank, not an attack, and :func:`strength` says so.

What remains: a fault in the kernel; and memory, of which every process of a child may take its share.
"""

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, BIND, RECURSIVE, PRIVATE = 2, 4, 4096, 16384, 1 << 18
MOUNT_SETATTR, READ_ONLY, OF_ALL_BELOW, AT_CWD = 442, 1, 0x8000, -100
DEATH_SIGNAL, NO_NEW_RIGHTS, NOBODY = 1, 38, 65534
SYSTEM = ("/usr", "/lib", "/lib64", "/bin")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SCRATCH = "size=64m,nr_inodes=2000,mode=777"
# In any folder that Python imports from: what is no business of those who hand in
NOT_SHOWN = ("fewshot_lib/course/answers", "notebooks", "tests", "teaching", "build", ".git")
REFUSED = (
    "socket.",
    "subprocess.",
    "ctypes.",
    "shutil.",
    "os.",
    "pty.",
    "ftplib.",
    "urllib.",
    "http.",
    "_posixsubprocess.",
)
Work = Callable[[int, bytes], None]
HARMLESS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv"}


@dataclass(frozen=True)
class Limits:
    """seconds: of the whole child. gigabytes: beside what it starts with. hidden: folders not to be seen."""

    seconds: float = 30
    gigabytes: float = 2
    processes: int = 16
    megabytes_out: int = 16
    hidden: Sequence[Path] = field(default=())


class NoNamespaces(OSError):
    """The system does not give a child a world of its own."""


def confined(work: Work, result: Path, given: Path | None, limits: Limits, strong: bool = True) -> str:
    """Calls ``work(file, content)`` in a confined child: a descriptor that writes to ``result``, and what is
    in ``given``, which this process never reads: its memory is what the next child begins with.

    Returns "" where it came to its end, else in a few words why not. Nothing that it started is left.
    """
    with tempfile.TemporaryDirectory(prefix="fewshot-") as place, result.open("wb") as file:
        os.chmod(place, 0o755)
        sys.stdout.flush(), sys.stderr.flush()
        child = os.fork()
        if not child:
            os._exit(_in_the_child(work, file.fileno(), given, Path(place), limits, strong))
        deadline = time.monotonic() + limits.seconds
        try:
            while not (ended := os.waitpid(child, os.WNOHANG))[0]:
                if time.monotonic() > deadline:
                    return f"it took more than {limits.seconds:g} s"
                time.sleep(0.01)
            child = 0
        finally:
            if child:
                # it ends the worker, the first process of its world, and so all
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(ended[1])
    if status == 0:
        return ""
    return (
        "no world of its own" if status == 99 else "its process was ended: too much memory, or its own doing"
    )


def _in_the_child(
    work: Work, file: int, given: Path | None, place: Path, limits: Limits, strong: bool
) -> int:
    """In the child: shuts the doors, and lets another child, the first in its own world, do the work."""
    try:
        os.setsid()
        as_root = os.getuid() == 0
        content = given.read_bytes() if given else b""
        if strong:
            _leave(as_root)
        if worker := os.fork():
            return _watch(worker)
        if strong:
            _move_in(place, limits.hidden)
        _give_up_rights(as_root)
        _limit(file, limits, place)
        if not strong:
            sys.addaudithook(_hook(place, limits.hidden))
        work(file, content)
        return 0
    except NoNamespaces:
        return 99
    except BaseException:  # it was interrupted, or its limits came before its end: not for the terminal
        return 98


def _watch(worker: int) -> int:
    """In the child: waits for the worker, and ends it when asked to, or when the parent is no more.

    The worker is in another world and cannot reach this process; asked itself, it might not listen.
    """
    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker, signal.SIGKILL))
    if sys.platform == "linux":
        _libc().prctl(DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    return min(98, abs(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _must(result: int) -> None:
    if result:
        raise NoNamespaces(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _leave(as_root: bool) -> None:
    """New namespaces: of mounts, network, processes and messages; and, for anyone but root, of users."""
    user, group = os.getuid(), os.getgid()
    flags = NEW_MOUNTS | NEW_NET | NEW_PIDS | NEW_IPC | (0 if as_root else NEW_USER)
    _must(_libc().unshare(flags))
    if not as_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount(source: str, target: Path | str, kind: str | None, flags: int, options: str = "") -> None:
    words = [word and word.encode() for word in (source, str(target), kind)]
    _must(_libc().mount(*words, ctypes.c_ulong(flags), options.encode()))


def _move_in(place: Path, hidden: Sequence[Path]) -> None:
    """A root directory of its own: what Python needs, read-only, and an empty /tmp."""
    named = [p for p in (*sys.path, sys.prefix, sys.base_prefix) if p and os.path.isdir(p)]
    folders = {
        Path(way(p)) for p in named for way in (os.path.abspath, os.path.realpath)
    }  # a link, and where it leads
    hidden = [*hidden, *(folder / name for folder in folders for name in NOT_SHOWN)]
    _mount("none", "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", place, "tmpfs", NOSUID | NODEV, "size=4m,mode=755")
    shown: list[Path] = []
    for path in sorted({Path(p) for p in (*SYSTEM, *DEVICES) if os.path.lexists(p)} | folders):
        target = place / path.relative_to("/")
        if any(path.is_relative_to(above) for above in shown):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and path not in folders:
            target.symlink_to(path.readlink())
            continue
        target.mkdir() if path.is_dir() else target.touch()
        _mount(str(path), target, None, BIND | RECURSIVE)
        shown.append(path)
    for path in hidden:
        for target in {place / way(path)[1:] for way in (os.path.abspath, os.path.realpath)}:
            if target.is_dir():
                _mount("tmpfs", target, "tmpfs", NOSUID | NODEV, "size=4k,mode=755")
    (place / "scratch").mkdir()
    settings = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
    _must(_libc().syscall(MOUNT_SETATTR, AT_CWD, str(place).encode(), OF_ALL_BELOW, settings, len(settings)))
    _mount("tmpfs", place / "scratch", "tmpfs", NOSUID | NODEV, SCRATCH)
    os.chroot(place)
    os.chdir("/scratch")


def _give_up_rights(as_root: bool) -> None:
    if as_root and _may_be_nobody():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if sys.platform == "linux":
        libc = _libc()
        libc.prctl(NO_NEW_RIGHTS, 1, 0, 0, 0)
        libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.path.exists("/scratch"):  # the rights in its own user namespace, with which it moved in
            libc.capset(struct.pack("II", 0x20080522, 0), struct.pack("IIIIII", *[0] * 6))


def _may_be_nobody() -> bool:
    """Whether Python still finds its own modules as a user without rights."""
    folders = [p for p in sys.path if os.path.isdir(p)]
    os.seteuid(NOBODY)
    try:
        return all(os.access(p, os.R_OK | os.X_OK, effective_ids=True) for p in folders)
    finally:
        os.seteuid(0)


def _limit(file: int, limits: Limits, place: Path) -> None:
    """Limits of the process, a clean environment, and no open file but its result."""
    scratch = "/scratch" if os.path.exists("/scratch") else str(place)
    os.chdir(scratch)
    os.environ.clear()
    os.environ.update(
        HOME=scratch, TMPDIR=scratch, OMP_NUM_THREADS="1", PATH="/usr/bin:/bin", FEWSHOT_STATIC="1"
    )
    tempfile.tempdir = scratch
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.dup2(file, 3)
    os.closerange(4, 4096)
    os.dup2(3, file)
    now = (
        int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        if os.path.exists("/proc/self")
        else 16 << 30
    )
    sizes = {
        resource.RLIMIT_AS: now + int(limits.gigabytes * 2**30),
        resource.RLIMIT_FSIZE: limits.megabytes_out << 20,
        resource.RLIMIT_CPU: int(limits.seconds) + 1,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for what, size in sizes.items():
        resource.setrlimit(what, (size, size))


def _hook(place: Path, hidden: Sequence[Path]) -> Callable[[str, tuple], None]:
    """Refuses, in this interpreter, what reaches outside: where there is no better wall."""

    def refuse(event: str, arguments: tuple) -> None:
        if event.startswith(REFUSED) and event not in HARMLESS:
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = Path(os.path.realpath(os.fsdecode(arguments[0])))
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writes and not path.is_relative_to(place)) or any(path.is_relative_to(h) for h in hidden):
                raise PermissionError(f"{path} is not to be opened here")

    hidden = [*(Path(os.path.realpath(h)) for h in hidden), *_not_shown()]
    return refuse


def _not_shown() -> Iterator[Path]:
    return (Path(folder).resolve() / name for folder in sys.path if folder for name in NOT_SHOWN)


def strength() -> str:
    """ "" where a child has a world of its own here; else why not, in words for the teacher."""
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"

    def reaches_out(file: int, _: bytes) -> None:
        with socket.socket() as probe:
            reached = probe.connect_ex(("127.0.0.1", 9)) not in (
                101,
                99,
            )  # unreachable: there is no device up
        os.write(file, b"1" if reached or os.path.exists("/etc") else b"0")

    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        problem = confined(reaches_out, result, None, Limits(seconds=10))
        return problem or ("" if result.read_bytes() == b"0" else "the walls have holes")
