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
	"gbatch/pkg/record"
)

// The phases of a submission, written down before what they name is done.
const (
	phaseUpload  = "upload"  // nothing was created; an uploaded file may lie at Google
	phaseCreate  = "create"  // a create may have been sent: whether there is a job is not known
	phaseCreated = "created" // there is a job, and its name is known
)

// receiptLife is how long an intent in phase created is kept. The list of jobs
// may lag behind a create; a line started again at once finds its job here.
const receiptLife = 72 * time.Hour

// An intent is a file that says how far the submission of one batch has come.
// Its lock says whether the process that does it is alive: the kernel drops
// it when the process ends, however it ends.
type intent struct {
	file *os.File
	mark mark
}

// A mark is what the file holds, as one line.
type mark struct {
	Name     string    `json:"name"` // the job's display name
	Batch    string    `json:"batch"`
	SHA256   string    `json:"sha256"` // of the batch's lines
	Requests int       `json:"requests"`
	Phase    string    `json:"phase"`
	Input    string    `json:"input,omitempty"`
	Job      string    `json:"job,omitempty"`
	PID      int       `json:"pid"`
	Host     string    `json:"host"`
	Time     time.Time `json:"time"` // of the phase
}

// stateDir returns the folder of the intents, made if need be. One that
// somebody else could write to is refused: they decide what is created.
func stateDir() (string, error) {
	home := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(home) { // as the XDG specification has it
		user, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no place for the submission's state: set HOME or XDG_STATE_HOME")
		}
		home = filepath.Join(user, ".local", "state")
	}
	dir := filepath.Join(home, "gbatch")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	switch st, ok := info.Sys().(*syscall.Stat_t); {
	case !info.IsDir():
		return "", fmt.Errorf("%s is not a folder: remove it, or set XDG_STATE_HOME", dir)
	case !ok || int(st.Uid) != os.Geteuid():
		return "", fmt.Errorf("%s belongs to another user: set XDG_STATE_HOME", dir)
	case info.Mode().Perm()&0o022 != 0:
		return "", fmt.Errorf("%s may be written to by others: chmod 700 it", dir)
	}
	return dir, nil
}

// openIntent opens and locks the intent of a batch, creating it if there is
// none, and reads what an earlier process left in it. While another process
// holds it, that one is submitting the batch, and is waited for.
func openIntent(ctx context.Context, path string, patience time.Duration) (*intent, error) {
	end := time.Now().Add(patience)
	const firstLook = 50 * time.Millisecond
	for wait := firstLook; ; {
		in, err := tryIntent(path)
		if err != nil || in != nil {
			return in, err
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

// tryIntent returns nil where another process holds the lock, or has just
// removed the file.
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

// read decodes the first line; a write that was cut short may have left more.
// A file without a byte was never written to, and a phase is on disk before
// what it names begins: nothing was done. What cannot be read may be a create.
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
	if json.Unmarshal(line, &in.mark) == nil {
		switch in.mark.Phase {
		case phaseUpload, phaseCreate, phaseCreated:
			return nil
		}
	}
	info, err := in.file.Stat()
	if err != nil {
		return err
	}
	in.mark = mark{Phase: phaseCreate, Time: info.ModTime()}
	return nil
}

// set writes a phase of p's submission to disk. The file is rewritten in place,
// since the lock is on it and not on its name.
func (in *intent) set(p *payload, phase, input, job string) error {
	m := mark{Name: p.name(), Batch: p.Batch, SHA256: p.hash, Requests: p.Count, Phase: phase, Input: input, Job: job,
		PID: os.Getpid(), Time: time.Now().UTC()}
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
	in.mark = m
	return nil
}

// receipt writes down p's job. The job is there whatever the disk says, so a
// failure is only told.
func (in *intent) receipt(p *payload, job *record.Job) {
	if err := in.set(p, phaseCreated, job.Input, job.Job); err != nil {
		slog.Warn("the receipt of a job was not written", "job", job.Job, "error", err)
	}
}

// forget makes close remove the file: nothing is left to remember.
func (in *intent) forget() { in.mark = mark{} }

// close lets go of the lock. A file without a phase goes first, while nobody
// else can have taken its name.
func (in *intent) close() {
	if in.mark.Phase == "" {
		if err := os.Remove(in.file.Name()); err != nil {
			slog.Warn("an intent was not removed", "error", err)
		}
	}
	in.file.Close()
}

// pruneIntents removes receipts that the list of jobs has long caught up with,
// and traces of uploads that Google deleted after 48 hours.
func pruneIntents(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < receiptLife {
			continue
		}
		in, err := tryIntent(filepath.Join(dir, e.Name()))
		if err != nil || in == nil {
			continue
		}
		if in.mark.Phase != phaseCreate {
			in.forget()
		}
		in.close()
	}
}
