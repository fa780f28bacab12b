// As Go's archive/tar reads and writes, by which Docker, Podman and BuildKit make and take layers.
//
//	archive list FILE            one line an entry: type, mode, uid, gid, size, seconds, nanoseconds, name, link target (hex)
//	archive write FORMAT DIR     the tree, to standard output; FORMAT: auto, pax, gnu
//	archive headers FORMAT FILE  headers alone, of the lines of FILE: mode uid gid size seconds nanoseconds name (hex)
package main

import (
	"archive/tar"
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var formats = map[string]tar.Format{"auto": tar.FormatUnknown, "pax": tar.FormatPAX, "gnu": tar.FormatGNU}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func list(file string) {
	in, err := os.Open(file)
	check(err)
	reader := tar.NewReader(in)
	for {
		h, err := reader.Next()
		if err == io.EOF {
			return
		}
		check(err)
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		t := h.ModTime
		fmt.Printf("%c %o %d %d %d %d %d %x %x\n", h.Typeflag, h.Mode&07777, h.Uid, h.Gid, h.Size, t.Unix(), t.Nanosecond(), h.Name, h.Linkname)
	}
}

func write(format tar.Format, dir string) {
	out := bufio.NewWriter(os.Stdout)
	writer := tar.NewWriter(out)
	seen := map[uint64]string{}
	check(os.Chdir(dir))
	check(filepath.Walk(".", func(path string, info os.FileInfo, err error) error {
		if err != nil || path == "." {
			return err
		}
		target := ""
		if info.Mode()&os.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		h.Name, h.Format = path, format
		h.AccessTime, h.ChangeTime, h.Uname, h.Gname = time.Time{}, time.Time{}, "", ""
		if info.IsDir() {
			h.Name += "/"
		}
		stat := info.Sys().(*syscall.Stat_t)
		if first, known := seen[stat.Ino]; known && !info.IsDir() {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		}
		seen[stat.Ino] = path
		if err := writer.WriteHeader(h); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return nil
		}
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(writer, in)
		return err
	}))
	check(writer.Close())
	check(out.Flush())
}

func headers(format tar.Format, file string) {
	text, err := os.ReadFile(file)
	check(err)
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var h tar.Header
		var seconds, nsec int64
		var name string
		_, err := fmt.Sscanf(line, "%o %d %d %d %d %d %s", &h.Mode, &h.Uid, &h.Gid, &h.Size, &seconds, &nsec, &name)
		check(err)
		bytes, err := hex.DecodeString(name)
		check(err)
		h.Name, h.ModTime, h.Typeflag, h.Format = string(bytes), time.Unix(seconds, nsec), tar.TypeReg, format
		// A writer of its own: the data that the size speaks of does not follow.
		if err := tar.NewWriter(os.Stdout).WriteHeader(&h); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", line, err)
		}
	}
}

func main() {
	switch os.Args[1] {
	case "list":
		list(os.Args[2])
	case "write":
		write(formats[os.Args[2]], os.Args[3])
	case "headers":
		headers(formats[os.Args[2]], os.Args[3])
	}
}
