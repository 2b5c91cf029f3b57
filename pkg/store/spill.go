package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"gbatch/pkg/lockfile"
)

// A spill is the folder, beside the database, for what DuckDB has no memory
// for: one for each process, since two would write over each other's files in
// it. Who may read the database does not matter: only its owner enters the
// folder.
type spill struct {
	dir  string
	lock *os.File // in the folder, held as long as the process lives
}

// newSpill makes a folder, and takes away those of processes that were killed.
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
		// Another process took it for one that was left, and takes it away.
		if err != errHeld && !os.IsNotExist(err) {
			os.RemoveAll(dir)
			return nil, err
		}
	}
}

// errHeld is the error of a folder that another process has, or takes away.
var errHeld = errors.New("the folder is held by another process")

// lockSpill takes the lock of a folder that no living process has.
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

// remove takes the folder away.
func (s *spill) remove() {
	if s != nil {
		os.RemoveAll(s.dir)
		s.lock.Close()
	}
}
