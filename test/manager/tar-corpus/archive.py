"""As Python's tarfile writes: `archive.py write|headers ustar|gnu|pax DIR|FILE`, to standard output (see archive.go)."""
import os
import sys
import tarfile

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
verb, kind, path = sys.argv[1:]
if verb == "write":
    os.chdir(path)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=FORMATS[kind]) as tar:
        for root, dirs, files in os.walk("."):
            dirs.sort()
            for name in sorted(dirs + files):
                try:
                    tar.add(os.path.relpath(os.path.join(root, name), "."), recursive=False)
                except (ValueError, OSError) as error:
                    print(error, file=sys.stderr)
else:
    for line in open(path, encoding="latin1"):
        mode, uid, gid, size, seconds, nsec, name = line.split()
        info = tarfile.TarInfo(bytes.fromhex(name).decode("utf8", "surrogateescape"))
        info.mode, info.uid, info.gid, info.size = int(mode, 8), int(uid), int(gid), int(size)
        info.mtime = int(seconds) + (int(nsec) / 1e9 if int(nsec) else 0)
        try:
            sys.stdout.buffer.write(info.tobuf(FORMATS[kind], "utf8", "surrogateescape"))
        except ValueError as error:
            print(line.strip(), error, file=sys.stderr)
