package duck

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"gbatch/pkg/lockfile"
)

// A lock keeps a database file open and locked for one transaction.
//
// DuckDB locks a file with fcntl. Such a lock belongs to the process, not to the
// descriptor. This has two consequences. It does not exclude the process itself:
// another DuckDB in this process could open the same file. And the process loses
// the lock as soon as it closes any of its descriptors of the file. So the file
// is also reserved within the process, by its inode, which is the same under all
// names of the file.
//
// The lock is taken before DuckDB opens the file, and released after DuckDB has
// closed it.
type lock struct {
	*os.File
	id   inode
	kind int16 // F_WRLCK or F_RDLCK
}

type inode struct{ dev, ino uint64 }

func identify(info fs.FileInfo) inode {
	s := info.Sys().(*syscall.Stat_t)
	return inode{uint64(s.Dev), uint64(s.Ino)}
}

// reserved are the files that this process has open.
var (
	reservedMu sync.Mutex
	reserved   = map[inode]bool{}
)

// lockFile opens a file and locks it as DuckDB does. The error is errLocked if
// another transaction or process has the file open.
func lockFile(path string, mode Access) (*lock, error) {
	// The file must be reserved before it is opened, because closing the
	// descriptor could release another transaction's lock.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	l := &lock{id: identify(info), kind: syscall.F_WRLCK}
	reservedMu.Lock()
	held := reserved[l.id]
	reserved[l.id] = true
	reservedMu.Unlock()
	if held {
		return nil, errLocked
	}
	flag := os.O_RDWR
	if mode == Read {
		flag, l.kind = os.O_RDONLY, syscall.F_RDLCK
	}
	if l.File, err = os.OpenFile(path, flag, 0); err == nil {
		err = l.acquire()
	}
	if mode == Read && errors.Is(err, syscall.EOPNOTSUPP) {
		err = nil // DuckDB then reads the file without a lock
	}
	if err == nil && !l.is(path) {
		err = errLocked // the name now belongs to another file
	}
	if err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// is reports whether a path leads to the locked file.
func (l *lock) is(path string) bool {
	opened, err := l.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(opened, named) && identify(opened) == l.id
}

var setLock = syscall.FcntlFlock // for tests

// acquire takes the lock again. DuckDB releases it when it closes the file.
func (l *lock) acquire() error {
	err := setLock(l.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: l.kind, Whence: io.SeekStart})
	switch {
	case err == nil:
		return nil
	case err == syscall.EAGAIN || err == syscall.EACCES:
		return errLocked
	case lockfile.Unsupported(err):
		return fmt.Errorf("%w: %w", errNoLocks, err)
	}
	return err
}

// release closes the file, which releases the lock. On a nil lock it does
// nothing.
func (l *lock) release() {
	if l == nil {
		return
	}
	l.Close()
	reservedMu.Lock()
	delete(reserved, l.id)
	reservedMu.Unlock()
}
