package duck

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"gbatch/pkg/lockfile"
)

// A spill is the folder beside the database for data that does not fit into
// DuckDB's memory. Each process has its own folder, because two processes would
// overwrite each other's files. Only the user may enter it, even if others may
// read the database.
type spill struct {
	dir  string
	lock *os.File // a file in the folder; locked until the process ends
}

// newSpill creates a folder, and deletes the folders of processes that were
// killed.
func newSpill(db string) (*spill, error) {
	parent, prefix := filepath.Dir(db), filepath.Base(db)+".tmp-"
	if entries, err := os.ReadDir(parent); err == nil {
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), prefix) && e.IsDir() {
				if left, err := lockSpill(filepath.Join(parent, e.Name())); err == nil {
					left.remove()
				}
			}
		}
	}
	for {
		dir, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return nil, err
		}
		s, err := lockSpill(dir)
		if err == nil {
			return s, nil
		}
		// Another process took the new folder for that of a killed process, and
		// deletes it.
		if err != errHeld && !os.IsNotExist(err) {
			os.RemoveAll(dir)
			return nil, err
		}
	}
}

// errHeld is the error of a folder that another process uses or deletes.
var errHeld = errors.New("the folder is held by another process")

// lockSpill takes the lock of a folder, unless a running process holds it.
func lockSpill(dir string) (*spill, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	held, err := lockfile.Try(f)
	if err == nil && !held {
		err = errHeld
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &spill{dir, f}, nil
}

// remove deletes the folder. On a nil spill it does nothing.
func (s *spill) remove() {
	if s != nil {
		os.RemoveAll(s.dir)
		s.lock.Close()
	}
}
