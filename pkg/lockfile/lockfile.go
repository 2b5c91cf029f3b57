// Package lockfile has tools for files that must survive a kill: a lock that ends with
// its process, a directory that is written to disk, and the place that a path means.
package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// ErrUnsupported is the error of a file system that has no locks.
var ErrUnsupported = errors.New("the file system has no file locks")

// Unsupported reports whether the error of a system call that locks a file
// means that the file system has no locks.
func Unsupported(err error) bool {
	return slices.ContainsFunc([]error{syscall.EOPNOTSUPP, syscall.ENOTSUP, syscall.ENOLCK, syscall.ENOSYS},
		func(no error) bool { return errors.Is(err, no) })
}

// Try takes the lock of an open file, and reports whether it is now held. It is
// not held if another process holds it, or if the file's name no longer leads to
// the file: the file may have been deleted after it was opened, and a lock on a
// deleted file excludes nobody. The kernel releases the lock when the process
// ends, however it ends, or when f is closed.
func Try(f *os.File) (held bool, err error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == syscall.EWOULDBLOCK {
		return false, nil
	} else if Unsupported(err) {
		return false, &fs.PathError{Op: "lock", Path: f.Name(), Err: fmt.Errorf("%w: %w", ErrUnsupported, err)}
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

// SyncDir writes a directory to disk, with the names of the files that were
// created or deleted there.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Target follows the links of a path, even if the target does not exist yet.
func Target(path string) string {
	for range 40 { // the limit of Linux
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return real
		}
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			dir, err := filepath.EvalSymlinks(filepath.Dir(path)) // .. leaves the target of a linked folder
			if err != nil {
				break
			}
			to = filepath.Join(dir, to)
		}
		path = to
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	return path
}
