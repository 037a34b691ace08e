"""Which file systems are shared with other computers, by name.

There a lock, or a mapped page, does not mean to every computer what it means here: two
computers would both recover, and both append.  Nothing can be tried out to be sure of
that, so the names are a list, and what is not on it is taken for local.

The kernel says what is mounted where, in /proc/self/mountinfo, a line each:

    36 35 98:0 / /srv/my\\040data rw,noatime shared:1 - nfs4 server:/export rw,vers=4.2
                 where it is       options   any number   ↑ what it is

Of several at one place, or above it, the last one counts.  Other systems do not say;
there the user has to know.

A directory of the host in a container of Docker Desktop is another system's, too: it comes by virtiofs, over
which newer ones lay fakeowner, by grpcfuse or by osxfs.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

NETWORK: Final = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "cvfs", "davfs", "fakeowner", "gfs2", "glusterfs",
    "gpfs", "grpcfuse", "lustre", "ncp", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "osxfs",
    "panfs", "prl_fs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
})  # fmt: skip
# fuse.<name>: these, and those above.
NETWORK_FUSE: Final = frozenset({
    "blobfuse", "blobfuse2", "ceph-fuse", "curlftpfs", "davfs2", "gcsfuse", "goofys",
    "gvfsd-fuse", "juicefs", "mfs", "moosefs", "mount-s3", "mountpoint-s3", "rclone", "s3fs", "seaweedfs",
    "smbnetfs", "sshfs", "vmhgfs-fuse", "weed",
})  # fmt: skip
ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def is_network(kind: str) -> bool:
    """Whether a file system of this *kind* may be other computers' too."""
    kind = kind.lower()
    name = kind.removeprefix("fuse.")
    if name != kind:
        return name in NETWORK or name in NETWORK_FUSE
    return name.partition(".")[0] in NETWORK  # virtiofs.<tag>, as Docker Desktop has it


class Mount(NamedTuple):
    """A file system, where it is mounted."""

    kind: str
    place: str
    options: frozenset[str]  # of the mount, and of the file system


def kind_at(path: str, mounts: str) -> str:
    """What is mounted where *path* is, an absolute one without links; "" if *mounts* does not say."""
    found = mount_at(path, mounts)
    return found.kind if found else ""


def mount_at(path: str, mounts: str) -> Mount | None:
    """The same, with all that is said of it."""
    found: Mount | None = None
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:
            continue
        place = ESCAPED.sub(lambda escaped: chr(int(escaped[1], 8)), fields[4])
        if (found is None or len(place) >= len(found.place)) and _is_within(path, place):
            kind, *others = after.split(" ")
            options = ",".join([*fields[5:6], *others[1:2]])
            found = Mount(kind, place, frozenset(options.split(",")))
    return found


def _is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip(os.sep) + os.sep)
