package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/lockfile"
)

// receiptLife is how long an intent in phase created is kept. The list of jobs
// may lag behind a create; a line that is run again at once finds its job here.
const receiptLife = 72 * time.Hour

// intents is the ledger that is a folder of files, one a batch.
type intents struct{ dir string }

// openIntents finds the folder, makes it if need be, and removes old entries. A
// folder that somebody else could write to is refused: they would decide what
// is created.
func openIntents() (*intents, error) {
	home := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(home) { // as the XDG specification has it
		user, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("no place for the submission's state: set HOME or XDG_STATE_HOME")
		}
		home = filepath.Join(user, ".local", "state")
	}
	dir := filepath.Join(home, "gbatch")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	switch st, ok := info.Sys().(*syscall.Stat_t); {
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a folder: remove it, or set XDG_STATE_HOME", dir)
	case !ok || int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to another user: set XDG_STATE_HOME", dir)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s may be written to by others: chmod 700 it", dir)
	}
	l := &intents{dir}
	l.prune()
	return l, nil
}

func (l *intents) path(name string) string { return filepath.Join(l.dir, name+".json") }

func (l *intents) claim(ctx context.Context, name string, patience time.Duration) (entry, error) {
	path, end := l.path(name), time.Now().Add(patience)
	const firstLook = 50 * time.Millisecond
	for wait := firstLook; ; {
		in, err := tryIntent(path)
		if err != nil {
			return nil, err
		}
		if in != nil {
			return in, nil
		}
		if time.Now().Add(wait).After(end) {
			return nil, exit.Errorf(exit.TryLater, "another process is submitting the batch of %s; try again later", path)
		}
		if wait == firstLook {
			slog.Info("waiting for another process that submits this batch", "intent", path)
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// prune removes receipts that the list of jobs has long caught up with, and
// traces of uploads that Google deleted after 48 hours.
func (l *intents) prune() {
	entries, _ := os.ReadDir(l.dir)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < receiptLife {
			continue
		}
		in, err := tryIntent(filepath.Join(l.dir, e.Name()))
		if err != nil || in == nil {
			continue
		}
		if in.is.Phase != phaseCreate {
			in.forget()
		}
		in.close()
	}
}

// An intent is an entry that is a file. Its lock tells whether the process that
// submits the batch is alive: the kernel drops the lock when the process ends,
// however it ends.
type intent struct {
	file *os.File
	is   mark
}

// tryIntent opens and locks an intent, creates it if there is none, and reads
// what an earlier process left in it. It returns nil while another process
// holds the lock, or has just removed the file.
func tryIntent(path string) (*intent, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	made := err == nil
	if errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if made {
		if err := lockfile.SyncDir(filepath.Dir(path)); err != nil {
			f.Close()
			return nil, err
		}
	}
	held, err := lockfile.Try(f)
	if err == nil && !held {
		f.Close()
		return nil, nil
	}
	if info, e := f.Stat(); err == nil && (e != nil || !info.Mode().IsRegular()) {
		err = fmt.Errorf("%s is not a regular file: remove it", path)
	}
	in := &intent{file: f}
	if err == nil {
		err = in.read()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return in, nil
}

// read decodes the first line; a write that was cut short may have left more. A
// file without a byte was never written to. Since a phase is on disk before
// what it names begins, nothing was done then. A line that cannot be decoded
// may stand for a create.
func (in *intent) read() error {
	buf := make([]byte, 4096)
	n, err := in.file.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if n == 0 {
		return nil
	}
	line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	if json.Unmarshal(line, &in.is) == nil {
		switch in.is.Phase {
		case phaseUpload, phaseCreate, phaseCreated:
			return nil
		}
	}
	info, err := in.file.Stat()
	if err != nil {
		return err
	}
	in.is = mark{Phase: phaseCreate, Time: info.ModTime()}
	return nil
}

func (in *intent) mark() mark { return in.is }

// set writes to the file in place, since the lock is on the file and not on its
// name.
func (in *intent) set(_ context.Context, m mark) error {
	m.PID, m.Time = os.Getpid(), time.Now().UTC()
	m.Host, _ = os.Hostname()
	line, err := json.Marshal(m)
	if err == nil {
		line = append(line, '\n')
		_, err = in.file.WriteAt(line, 0)
	}
	if err == nil {
		err = in.file.Truncate(int64(len(line)))
	}
	if err == nil {
		err = in.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write the intent of %s: %w", m.Name, err)
	}
	in.is = m
	return nil
}

func (in *intent) forget() { in.is = mark{} }

// close drops the lock. An intent without a phase is removed before, while no
// other process can have taken its name.
func (in *intent) close() {
	if in.is.Phase == "" {
		if err := os.Remove(in.file.Name()); err != nil {
			slog.Warn("an intent was not removed", "error", err)
		}
	}
	in.file.Close()
}
