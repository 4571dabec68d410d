"""Whether a folder is on a file system where SQLite's write-ahead log works.

The log needs memory that all processes share and locks that hold between them; network file systems give neither
between machines (https://www.sqlite.org/wal.html, "Overview"; https://www.sqlite.org/useovernet.html).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_NETWORK_TYPES = frozenset(
    [
        "9p",
        "afp",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.glusterfs",
        "fuse.gcsfuse",
        "fuse.goofys",
        "fuse.mergerfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
        "fuse.vmhgfs-fuse",
        "webdav",
    ],
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def is_network_file_system(path: str, mounts: str = "/proc/self/mounts") -> bool:
    r"""Return True if ``path`` lies on a network file system, by the longest mount point in ``mounts`` that holds it.

    Where there is no such table (macOS, Windows) only Windows' ``\\server\share`` paths are recognized; pass
    ``SQLiteStorage(..., journal_mode="delete")`` for network volumes there.
    """
    if path.startswith("\\\\"):
        return True
    try:
        table = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    real = os.path.realpath(path)
    best, best_type = "", ""
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:  # noqa: PLR2004 - device, mount point, type
            continue
        point = _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # A later mount on the same point hides the earlier one.
        if inside and len(point) >= len(best):
            best, best_type = point, fields[2]
    return best_type in _NETWORK_TYPES
