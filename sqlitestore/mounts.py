r"""Whether a file is where SQLite's write-ahead log works.

The log needs memory that all who have the file open share; network file systems give none between machines
(https://www.sqlite.org/wal.html, "Overview"; https://www.sqlite.org/useovernet.html). Where it does not work the
rollback journal is used, which needs only locks. How it is decided:

- Linux: by the type of the file system in ``/proc/self/mounts``. A list names those that are not local; of FUSE, behind
  which anything may be, a list names those that are, so that an unknown one gets the rollback journal.
- macOS: by the flag MNT_LOCAL of ``statfs``. Windows: by ``\\server\share`` paths and drives that it calls remote.
- A file that is a mount point by itself (as Docker mounts a single file): its log would lie in another folder than that
  of whoever else has the file open.

What cannot be told: a local folder that a program synchronizes with a cloud (Dropbox, OneDrive, iCloud), and a local
disk that other machines mount from here. ``SQLiteStorage(..., journal_mode=...)`` overrides it either way.
"""

from __future__ import annotations

import os
import re
import sys

MOUNTS = "/proc/self/mounts"

# Also folders of the host that a virtual machine, WSL or a container sees: the other side has memory of its own.
# With autofs nothing is mounted yet.
_NOT_LOCAL = frozenset([
    "9p", "acfs", "afp", "afpfs", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "cvfs", "davfs", "drvfs",
    "fakeowner", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "grpcfuse", "lustre", "mfs", "ncp", "ncpfs", "nfs",
    "nfs3", "nfs4", "ocfs2", "orangefs", "osxfs", "panfs", "prl_fs", "pvfs2", "quobyte", "smb2", "smb3", "smbfs",
    "snfs", "vboxsf", "virtiofs", "vmhgfs", "webdav", "wekafs", "wslfs",
])  # fmt: skip

_LOCAL_FUSE = frozenset([
    "fuseblk", "fuse.bindfs", "fuse.cryfs", "fuse.encfs", "fuse.exfat", "fuse.ext2", "fuse.ext4", "fuse.fuse-ext2",
    "fuse.fuse-overlayfs", "fuse.fuse2fs", "fuse.gocryptfs", "fuse.lxcfs", "fuse.ntfs", "fuse.ntfs-3g",
    "fuse.securefs", "fuse.zfs",
])  # fmt: skip

_OCTAL = re.compile(rb"\\([0-7]{3})")
_MNT_LOCAL = 0x1000  # sys/mount.h of macOS
_DRIVE_REMOTE = 4  # fileapi.h of Windows


def is_network_file_system(path: str, mounts: str | None = None) -> bool:
    """Return True if the file ``path``, or what it is a link to, is where the log does not work.

    Decided by the longest mount point in the table ``mounts`` (None: the system's) that holds it; without a table by
    what the system says. Where nothing says it, it is False.
    """
    if path.startswith("\\\\"):
        return True
    real = os.path.realpath(path)
    try:
        with open(MOUNTS if mounts is None else mounts, "rb") as file:
            table = file.read()
    except OSError:
        return _is_remote_for_the_system(real)
    best, best_type = "", ""
    for line in table.split(b"\n"):
        fields = line.split(b" ")
        if len(fields) < 3:  # noqa: PLR2004 - device, mount point, type
            continue
        point = os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match.group(1), 8) & 0xFF]), fields[1]))
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # A later mount on the same point hides the earlier one.
        if inside and len(point) >= len(best):
            best, best_type = point, os.fsdecode(fields[2])
    unknown_fuse = best_type.split(".")[0] in {"fuse", "fuseblk"} and best_type not in _LOCAL_FUSE
    return best == real or best_type in _NOT_LOCAL or unknown_fuse


def _is_remote_for_the_system(real: str) -> bool:
    """Ask macOS or Windows; False if the answer is no or none."""
    import ctypes  # 2 ms, and not needed on Linux

    folder = os.path.dirname(real)
    if sys.platform == "darwin":
        libc = ctypes.CDLL(None)
        # The structure with 64-bit inode numbers, which Intel's Macs have under another name.
        statfs = getattr(libc, "statfs$INODE64", None) or libc.statfs
        answer = (ctypes.c_uint32 * 1024)()  # more than struct statfs has; f_flags is its 17th word
        return statfs(os.fsencode(folder), ctypes.byref(answer)) == 0 and not answer[16] & _MNT_LOCAL
    if sys.platform == "win32":
        drive = os.path.splitdrive(folder)[0]
        return drive.startswith("\\\\") or ctypes.windll.kernel32.GetDriveTypeW(drive + "\\") == _DRIVE_REMOTE
    return False
