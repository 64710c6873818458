"""What the kernel holds a worker to, whatever it runs: resources, system calls, files.

Three layers.  Resource limits hold everywhere.  A seccomp filter (Linux on x86-64 and arm64) refuses everything
that makes processes, connections, files or kernel objects; Landlock (Linux 5.13 and later, where it is switched on)
leaves the data files of the statement readable and nothing else.  The last two are extra walls: where a kernel
lacks them, a worker is still a process with an empty environment and no descriptors, whose DuckDB opens only the
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

__all__ = ["confine", "confine_files", "renounce", "report"]

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38


def renounce() -> None:
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
#: Refused, as numbers on x86-64 and arm64 (-1: not there).  A worker has one thread and reads files.
_REFUSED: Final[dict[str, tuple[int, int]]] = {
    # network
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    # processes
    "clone": (56, 220),
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setrlimit": (160, 164),
    # files: nothing is made, changed or removed
    "creat": (85, -1),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "rmdir": (84, -1),
    "link": (86, -1),
    "linkat": (265, 37),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "io_setup": (206, 0),
    # the system
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "acct": (163, 89),
    "personality": (135, 92),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
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
    for numbers in _REFUSED.values():
        if numbers[column] >= 0:
            yield (_EQUAL, 0, 1, numbers[column])
            yield deny
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
    yield allow
