// Package lockfile holds what files need that must survive a kill: a lock that
// ends with its process, and a directory that is on disk.
package lockfile

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// Try takes the lock of an open file, and reports whether it is held now. It is
// not where another process holds it, and where the file's name does not lead
// to the file any more: between the opening and the lock its owner may have
// removed it, and such a lock keeps nobody out. The kernel drops the lock when
// the process ends, however it ends, or when f is closed.
func Try(f *os.File) (held bool, err error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == syscall.EWOULDBLOCK {
		return false, nil
	} else if err != nil {
		return false, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	opened, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, named), err
}

// SyncDir writes a directory to disk, and with it the names of the files that
// were made or removed there.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
