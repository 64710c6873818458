"""What the kernel holds a worker to, whatever it runs: resources, system calls, files.

Three layers.  Resource limits hold everywhere.  A seccomp filter (Linux on x86-64 and arm64) lets through the system
calls that reading files and computing need, and refuses all others; Landlock (Linux 5.13 and later, where it is
switched on) leaves the data files of the statement readable and nothing else.  The last two are extra walls: where a
kernel lacks them, a worker is still a process with an empty environment and no descriptors, whose DuckDB opens only the
listed files.  `report` says what this machine has.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["confine", "confine_files", "drop_privileges", "report"]

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38


def drop_privileges() -> None:
    """Give up for good what no statement needs: children, descriptors, written files, privileges."""
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 512),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _lower(name, value)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def confine(memory: int, seconds: float) -> None:
    """Bound the further address space (bytes) and the processor time of this process, then its system calls."""
    with Path("/proc/self/statm").open("rb") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, used + memory)
    _lower(resource.RLIMIT_CPU, math.ceil(seconds) + 1)
    _refuse_calls()


def confine_files(paths: Iterable[str]) -> bool:
    """Leave these files, and what lies beneath these folders, readable and nothing else; False without Landlock."""
    version = _landlock_version()
    if version < 1:
        return False
    handled = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", 0b11)  # no TCP, neither bind nor connect
    if version >= 6:
        attributes += struct.pack("=Q", 0b11)  # no abstract sockets, no signals to others
    ruleset = _LIBC.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        for path in paths:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = _READ_FILE | _READ_DIR if Path(path).is_dir() else _READ_FILE
                rule = struct.pack("=Qi", allowed, folder)
                if _LIBC.syscall(_LANDLOCK_ADD, ruleset, _PATH_BENEATH, rule, 0):
                    raise OSError(ctypes.get_errno(), "landlock_add_rule")
            finally:
                os.close(folder)
        if _LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, 0):
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    return True


def report() -> dict[str, bool]:
    """Return which of the extra walls this machine has."""
    return {"landlock": _landlock_version() >= 1, "seccomp": platform.machine() in _ARCHITECTURES}


def _lower(name: int, value: int) -> None:
    _, hard = resource.getrlimit(name)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (value, value))


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


# -- files: Landlock ----------------------------------------------------------------------------------------------

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3


def _landlock_version() -> int:
    return int(_LIBC.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


# -- system calls: seccomp ----------------------------------------------------------------------------------------

#: AUDIT_ARCH_* of the machines that the numbers below are known for, and the column they are in.
_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: What a worker needs, as numbers on x86-64 and arm64 (-1: not there): it has one thread, one socket, and reads files.
#: Whatever is not here, or below with a condition, is refused, calls that a later kernel brings included.
_ALLOWED: Final[dict[str, tuple[int, int]]] = {
    # files (how they are opened is checked further down)
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "lseek": (8, 62),
    "close": (3, 57),
    "fcntl": (72, 25),
    "fstat": (5, 80),
    "stat": (4, -1),
    "lstat": (6, -1),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, -1),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    # the socket to the parent; nothing else that could be written to is open, or can be opened
    "write": (1, 64),
    "writev": (20, 66),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "shutdown": (48, 210),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "select": (23, -1),
    "pselect6": (270, 72),
    # memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "brk": (12, 214),
    # waiting, time, chance
    "futex": (202, 98),
    "membarrier": (324, 283),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, -1),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    # itself
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrlimit": (97, 163),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # further walls: they can only take away
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
#: Refused as if the kernel did not know them: libraries fall back to calls whose arguments can be checked.
_UNKNOWN: Final[dict[str, tuple[int, int]]] = {"clone3": (435, 435), "openat2": (437, 437)}
#: Signals to this process alone.
_SIGNALS: Final[dict[str, tuple[int, int]]] = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131)}
#: Opening for reading alone: the number, and the argument that holds the flags.
_OPENS: Final = ((2, -1, 1), (257, 56, 2))
_PRLIMIT: Final = (302, 261)
_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_Step = tuple[int, int, int, int]


def _refuse_calls() -> bool:
    """Install the filter; False on a machine whose numbers are not known or a kernel without seccomp."""
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    program = b"".join(struct.pack("=HBBI", *step) for step in _filter(*known))

    class _Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    argument = _Program(len(program) // 8, program)
    return bool(_LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(argument), 0, 0) == 0)


def _filter(architecture: int, column: int) -> Iterator[_Step]:
    deny = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _ALLOW)
    yield (_LOAD, 0, 0, _ARCHITECTURE)
    yield (_EQUAL, 1, 0, architecture)
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    if column == 0:
        yield (_ABOVE, 0, 1, 0x40000000)  # the x32 numbers of the same calls
        yield deny
    for numbers in _ALLOWED.values():
        if numbers[column] >= 0:
            yield (_EQUAL, 0, 1, numbers[column])
            yield allow
    for numbers in _UNKNOWN.values():
        yield (_EQUAL, 0, 1, numbers[column])
        yield (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    for numbers in _SIGNALS.values():
        yield (_EQUAL, 0, 4, numbers[column])
        yield (_LOAD, 0, 0, _ARGUMENTS)
        yield (_EQUAL, 0, 1, os.getpid())
        yield allow
        yield deny
    for on_intel, on_arm, position in _OPENS:
        if (number := (on_intel, on_arm)[column]) >= 0:
            yield (_EQUAL, 0, 4, number)
            yield (_LOAD, 0, 0, _ARGUMENTS + 8 * position)
            yield (_ANY_BIT, 1, 0, _WRITING_FLAGS)
            yield allow
            yield deny
    # Limits may be read, not set: root could raise its own.
    yield (_EQUAL, 0, 6, _PRLIMIT[column])
    yield (_LOAD, 0, 0, _ARGUMENTS + 8 * 2)
    yield (_EQUAL, 0, 3, 0)
    yield (_LOAD, 0, 0, _ARGUMENTS + 8 * 2 + 4)
    yield (_EQUAL, 0, 1, 0)
    yield allow
    yield deny
    # Everything else.
    yield deny
