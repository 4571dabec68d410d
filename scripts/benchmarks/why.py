"""Where we are behind what a user would write instead, and why: by group, step and cost."""

from __future__ import annotations

LARGE = (
    "Every byte is hashed, tried to compress, and with a log written twice (there, then into the file); a file of "
    "one's own is written once."
)
READ = "Every byte is hashed before it is returned, and decompressed if that had paid; the others return what is there."
SMALL = (
    "A task is two transactions here (started; done, with its content), with digests, previews and metadata; "
    "theirs is one, and rows that one could delete without anyone noticing."
)
FIND = "They look for names only; here attempts, done markers and the digests of the rows are read and checked."
LOOK = "Here an artifact's row is found and checked by its digest, and the content by its key."
COMPARED = (
    "What is stored is read, decompressed if that had paid, and compared with the new content; theirs is written as a "
    "new copy."
)

WHY: dict[tuple[str, str, str], str] = {
    **{(group, "save", "closed"): LARGE for group in ("noise", "large noise", "integers", "frame", "crowd of arrays")},
    **{(group, "load", "seconds"): READ for group in ("noise", "large noise", "integers", "frame")},
    **{
        (group, step, "closed"): COMPARED
        for group in ("noise", "integers")
        for step in ("again", "changed", "appended")
    },
    ("tasks", "save", "closed"): SMALL,
    ("crowd of tasks", "save", "closed"): SMALL,
    (
        "tasks",
        "save",
        "disk",
    ): "Each task also has its attempt, metadata, previews and digests; theirs has the artifacts.",
    ("tasks", "by run", "seconds"): FIND,
    ("tasks", "by pathspecs", "seconds"): FIND,
    ("tasks", "load", "seconds"): LOOK,
    ("data", "save", "closed"): "Each blob is hashed, looked for, and tried to compress; theirs are inserted.",
    ("data", "load", "seconds"): READ,
}
