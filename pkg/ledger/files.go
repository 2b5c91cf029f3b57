package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/lockfile"
)

// Life is how long an entry in phase upload or created is kept. The list of jobs
// may lag behind a create: until it shows the job, the entry names it.
const Life = 72 * time.Hour

// Files is the ledger as a folder of files, one for each submission: its
// intents.
type Files struct{ dir string }

// Open finds the folder, creates it if necessary, and removes old entries.
func Open() (*Files, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("there is no folder for the intents: %w: set XDG_STATE_HOME to a folder that you can write to", err)
	}
	if err := trust(dir); err != nil {
		return nil, err
	}
	l := &Files{dir}
	l.prune()
	return l, nil
}

// Look is [Open] for a process that submits nothing. It creates and removes
// nothing, and treats a missing folder as a ledger without entries.
func Look() (*Files, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	if err := trust(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Files{dir}, nil
}

func folder() (string, error) {
	home := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(home) { // the XDG specification says so
		user, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("there is no folder for the intents: set HOME or XDG_STATE_HOME")
		}
		home = filepath.Join(user, ".local", "state")
	}
	return filepath.Join(home, "gbatch"), nil
}

// trust refuses a folder that another user could write to, because that user
// could then decide which jobs are created.
func trust(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch st, ok := info.Sys().(*syscall.Stat_t); {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder: remove it, or set XDG_STATE_HOME", dir)
	case !ok || int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user: set XDG_STATE_HOME", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("other users can write to %s: chmod 700 it", dir)
	}
	return nil
}

func (l *Files) path(name string) string { return filepath.Join(l.dir, name+".json") }

// Names lists the names of all entries.
func (l *Files) Names() (names []string) {
	entries, _ := os.ReadDir(l.dir)
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			names = append(names, name)
		}
	}
	return names
}

// Read reads the mark of an entry, even if another process holds the entry. The
// mark is zero if there is no such entry.
func (l *Files) Read(name string) (Mark, error) {
	f, err := os.OpenFile(l.path(name), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Mark{}, nil
	}
	if err != nil {
		return Mark{}, err
	}
	defer f.Close()
	return decode(f)
}

// Try is [Files.Claim] without waiting: it returns nil if another process holds
// the entry.
func (l *Files) Try(name string) (Entry, error) {
	in, err := tryIntent(l.path(name))
	if in == nil {
		return nil, err
	}
	return in, nil
}

// sayAfter is how long Claim waits before it says so.
const sayAfter = time.Second

// Claim implements [Ledger].
func (l *Files) Claim(ctx context.Context, name string, patience time.Duration) (Entry, error) {
	path, start, told := l.path(name), time.Now(), false
	for wait := 50 * time.Millisecond; ; {
		in, err := tryIntent(path)
		if err != nil {
			return nil, err
		}
		if in != nil {
			return in, nil
		}
		if time.Since(start)+wait > patience {
			return nil, exit.Errorf(exit.TryLater, "%w of %s; try again later", ErrHeld, path)
		}
		if !told && time.Since(start) > sayAfter {
			told = true
			slog.Info("waiting for another process that is submitting this batch", "intent", path)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// Peek implements [Ledger].
func (l *Files) Peek(_ context.Context, name string) (Entry, error) {
	if !slices.Contains(l.Names(), name) {
		return Peeked{}, nil
	}
	in, err := tryIntent(l.path(name))
	if err != nil {
		return nil, err
	}
	if in == nil {
		return nil, ErrHeld
	}
	defer in.Close()
	return Peeked{in.is, in.String()}, nil
}

// Others implements [Ledger]. It skips entries that cannot be read.
func (l *Files) Others(_ context.Context, name, hash string) (marks []Mark, err error) {
	for _, other := range l.Names() {
		if other == name || !strings.HasSuffix(other, hash) {
			continue
		}
		if m, err := l.Read(other); err == nil && m.SHA256 == hash {
			marks = append(marks, m)
		}
	}
	return marks, nil
}

// prune removes old receipts, whose jobs the list has shown for long, and old
// upload marks, whose files Google has deleted after 48 hours.
func (l *Files) prune() {
	for _, name := range l.Names() {
		if info, err := os.Lstat(l.path(name)); err != nil || time.Since(info.ModTime()) < Life {
			continue
		}
		in, err := tryIntent(l.path(name))
		if err != nil || in == nil {
			continue
		}
		if in.is.Phase != Create {
			in.Forget()
		}
		in.Close()
	}
}

// An intent is an entry that is a file. Its lock shows whether the process that
// submits the batch is running: the kernel releases the lock when the process
// ends, however it ends.
type intent struct {
	file *os.File
	is   Mark
}

// tryIntent opens and locks an intent. It creates the file if necessary, and
// reads what an earlier process wrote. It returns nil if another process holds
// the lock, or has just removed the file.
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
	if errors.Is(err, syscall.ENOLCK) || errors.Is(err, errors.ErrUnsupported) {
		err = fmt.Errorf("%w: the file system has no locks, set XDG_STATE_HOME to a folder on a local disk", err)
	}
	if err == nil && !held {
		f.Close()
		return nil, nil
	}
	if info, e := f.Stat(); err == nil && (e != nil || !info.Mode().IsRegular()) {
		err = fmt.Errorf("%s is not a regular file: remove it", path)
	}
	in := &intent{file: f}
	if err == nil {
		in.is, err = decode(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return in, nil
}

// decode reads the first line. A write that was interrupted may have left more
// bytes after it. An empty file was never written to: because a phase is on disk
// before its work begins, no work was done.
func decode(f *os.File) (m Mark, err error) {
	buf := make([]byte, 64<<10) // more than any mark has
	n, err := f.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return m, err
	}
	if n == 0 {
		return m, nil
	}
	line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	return Decode(line), nil
}

func (in *intent) Mark() Mark { return in.is }

func (in *intent) String() string { return in.file.Name() }

// Set overwrites the file in place, because the lock is on the file and not on
// its name.
func (in *intent) Set(_ context.Context, m Mark) error {
	line, err := Encode(m)
	if err == nil {
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

func (in *intent) Forget() { in.is = Mark{} }

// Close releases the lock. An intent without a phase is removed before that,
// while no other process can use its name.
func (in *intent) Close() {
	if in.is.Phase == "" {
		if err := os.Remove(in.file.Name()); err != nil {
			slog.Warn("an intent was not removed", "error", err)
		}
	}
	in.file.Close()
}
