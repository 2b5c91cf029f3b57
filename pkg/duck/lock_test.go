package duck

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gbatch/pkg/exit"
)

// Two transactions of one process run one after the other, whatever name each
// uses for the file. fcntl alone would admit both.
func TestLockWithinProcess(t *testing.T) {
	k := open(t, "CREATE TABLE t (i BIGINT)")
	names := []string{k.DB, k.DB + ".link", k.DB + ".hard"}
	if err := errors.Join(os.Symlink(k.DB, names[1]), os.Link(k.DB, names[2])); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		other := &kb{t, Database{DB: name, LockTimeout: 10 * time.Millisecond}}
		err := k.transact(Write, func(*Conn) error {
			for _, mode := range []Access{Read, Write, Create} {
				if err := other.transact(mode, look); exit.Code(err) != exit.TryLater {
					t.Errorf("%s, mode %d: %v", name, mode, err)
				}
			}
			// The attempt has not released the lock that excludes other processes.
			if pid := holder(t, k.DB); pid != os.Getpid() {
				t.Errorf("%s: process %d has the lock, not this one", name, pid)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := other.transact(Read, look); err != nil {
			t.Errorf("%s after the transaction: %v", name, err)
		}
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			other := &kb{t, Database{DB: names[i%2], LockTimeout: time.Minute}}
			if err := other.transact(Write, func(c *Conn) error { return c.Exec("INSERT INTO t SELECT count(*) FROM t") }); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	k.expect("SELECT i::VARCHAR FROM t ORDER BY i", "0", "1", "2", "3", "4", "5", "6", "7")
}

// holder returns the process that prevents another one from locking a file, or
// 0.
func holder(t *testing.T, path string) (pid int) {
	if os.Getenv("GBATCH_TEST_HOLDER") != "" {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lock := syscall.Flock_t{Type: syscall.F_WRLCK}
		if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
			t.Fatal(err)
		}
		fmt.Println("holder", lock.Pid)
		return 0
	}
	c := exec.Command(os.Args[0], "-test.run=^TestHolder$")
	c.Env = append(os.Environ(), "GBATCH_TEST_HOLDER="+path)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscanf(string(out), "holder %d", &pid)
	return pid
}

// TestHolder is what the other process of holder runs.
func TestHolder(t *testing.T) {
	if path := os.Getenv("GBATCH_TEST_HOLDER"); path != "" {
		holder(t, path)
	}
}

// A file system without locks is not reported as another process that holds the
// file.
func TestNoLocks(t *testing.T) {
	defer func() { setLock = syscall.FcntlFlock }()
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	for _, no := range []syscall.Errno{syscall.EOPNOTSUPP, syscall.ENOLCK, syscall.ENOSYS} {
		setLock = func(uintptr, int, *syscall.Flock_t) error { return no }
		for _, mode := range []Access{Read, Write, Create} {
			err := k.transact(mode, look)
			if mode == Read && no == syscall.EOPNOTSUPP {
				if err != nil {
					t.Errorf("%v: reading needs no lock: %v", no, err)
				}
			} else if err == nil || exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "the file system has no file locks") || !strings.Contains(err.Error(), "local disk") {
				t.Errorf("%v, mode %d: %v", no, mode, err)
			}
		}
	}
	// These are DuckDB's own texts. They do not mean the lock of another process,
	// because the file is already locked.
	for _, text := range []string{
		"File locks are not supported for this file system, cannot open the file in read-write mode. Try opening the file in read-only mode",
		"Conflicting lock is held in PID 0", "No locks available", "Function not implemented",
	} {
		err := k.explain(newError(fmt.Sprintf("IO Error: Could not set lock on file %q: %s. See also https://duckdb.org/docs/stable/connect/concurrency", k.DB, text)))
		if exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "local disk") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A file that is not a regular file is refused at once.
func TestOddFiles(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{pipe, "/dev/null"} {
		k := &kb{t, Database{DB: name, LockTimeout: time.Minute}}
		for _, mode := range []Access{Read, Write, Create} {
			if err := k.transact(mode, look); err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("%s, mode %d: %v", name, mode, err)
			}
		}
	}
}
