package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gbatch/pkg/exit"
	"gbatch/pkg/lockfile"
)

// Output is the flag of a command that prints records. [Main] gives the command the
// file as its output.
type Output struct {
	Output string `short:"o" env:"-" placeholder:"FILE" help:"Write to this file in place of stdout: all of the output, or nothing. - is stdout."`
}

func (o *Output) output() string { return o.Output }

// An output is what a command prints to.
type output struct {
	io.Writer
	file *newFile // nil if the output is written directly
	lost string   // what the command says if the file cannot be written
}

// openOutput returns the output of a command: stdout, a device or a named pipe, or a
// new file, which gets its name at the end. It fails if the file could not get it, so
// that nothing is sent or paid for in vain.
func openOutput(ctx context.Context, cmd Command, stdout io.Writer) (*output, error) {
	c, ok := cmd.(interface{ output() string })
	if !ok || c.output() == "" || c.output() == "-" {
		return &output{Writer: stdout}, nil
	}
	path := c.output()
	if fd, ok := descriptor(path); ok {
		if fd == 1 {
			return &output{Writer: stdout}, nil
		}
		f := os.NewFile(uintptr(fd), path)
		if _, err := f.Stat(); err != nil {
			return nil, exit.With(exit.Usage, about(path, err))
		}
		return &output{Writer: f}, nil
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		// A named pipe waits for its reader.
		f, err := wait(ctx, nil, func() (*os.File, error) { return os.OpenFile(path, os.O_WRONLY, 0) })
		if err != nil {
			return nil, err
		}
		return &output{Writer: f}, nil
	}
	f, err := create(path)
	if err != nil {
		return nil, exit.With(exit.Usage, about(path, err))
	}
	removeParts(f.target)
	o := &output{Writer: f, file: f}
	if c, ok := cmd.(interface{ OutputLost() string }); ok {
		o.lost = "; " + c.OutputLost()
	}
	return o, nil
}

// descriptor returns the number of an open file, if the path stands for one. The path
// is not opened, because a file would be opened anew, at its start.
func descriptor(path string) (fd int, ok bool) {
	path = filepath.Clean(path)
	if n := map[string]int{"/dev/stdout": 1, "/dev/stderr": 2}[path]; n > 0 {
		return n, true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if digits, is := strings.CutPrefix(path, dir); is {
			n, err := strconv.Atoi(digits)
			return n, err == nil
		}
	}
	return 0, false
}

// end ends the output of a command that ends with err, and returns the error of the
// command. The new file gets its name if the output counts, see [exit.Keeps].
// Otherwise the file of that name stays as it was.
func (o *output) end(err error) error {
	switch {
	case o.file == nil:
		return err
	case exit.Keeps(err) && o.file.broken == nil:
		failed := o.file.commit()
		if failed == nil {
			return err
		}
		failed = fmt.Errorf("%w, so the file was not written%s", failed, o.lost)
		if err != nil {
			failed = fmt.Errorf("%w; %w", failed, err)
		}
		return exit.With(exit.Failed, failed)
	}
	o.file.discard()
	switch {
	case o.file.broken != nil:
		return fmt.Errorf("%w, so the file was not written%s", cmp.Or(err, o.file.broken), o.lost)
	case errors.Is(err, context.Canceled) || errors.As(err, new(caught)):
		return err
	}
	return fmt.Errorf("%w; %s was not written", err, o.file.path)
}

// A newFile is a file that gets its name when it is complete. Until then it is beside
// its place, with another name.
type newFile struct {
	path   string // as the caller gave it
	target string // without links
	part   *os.File
	old    fs.FileInfo // the file that is replaced; nil if there is none
	broken error       // of the last write that failed
}

// create starts a new file. If a file exists at the path, the new one gets its mode
// and owner. A link stays, and its target is replaced.
func create(path string) (*newFile, error) {
	f := &newFile{path: path, target: lockfile.Target(path)}
	mode := fs.FileMode(0o666)
	if old, err := os.Stat(f.target); err == nil {
		if old.IsDir() {
			return nil, syscall.EISDIR
		}
		if !old.Mode().IsRegular() {
			return nil, errors.New("not a regular file")
		}
		if err := unix.Access(f.target, unix.W_OK); err != nil {
			return nil, err
		}
		f.old, mode = old, 0o600
	}
	for {
		var err error
		name := fmt.Sprintf("%s%08x", partPrefix(f.target), rand.Uint32())
		if f.part, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode); err == nil {
			// The lock shows that this process lives. It is not held if the file was
			// taken for a dead process's, and removed.
			held, err := lockfile.Try(f.part)
			if held || errors.Is(err, lockfile.ErrUnsupported) {
				return f, nil
			}
			f.discard()
			if err != nil {
				return nil, err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
}

// partPrefix is how the paths of new files for target begin.
func partPrefix(target string) string {
	dir, base := filepath.Split(target)
	return filepath.Join(dir, fmt.Sprintf(".%.100s.gbatch-", base))
}

// removeParts removes the new files for target whose processes were killed.
func removeParts(target string) {
	prefix := partPrefix(target)
	entries, _ := os.ReadDir(filepath.Dir(prefix))
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filepath.Base(prefix))
		if !ok || len(digits) != 8 || !e.Type().IsRegular() {
			continue
		}
		f, err := os.OpenFile(prefix+digits, os.O_WRONLY|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if held, err := lockfile.Try(f); held && err == nil {
			os.Remove(f.Name())
		}
		f.Close()
	}
}

func (f *newFile) Write(p []byte) (int, error) {
	n, err := f.part.Write(p)
	if err != nil {
		err = about(f.path, err)
		f.broken = err
	}
	return n, err
}

// commit gives the file its name, after all of it is on disk. If that fails, the old
// file stays.
func (f *newFile) commit() error {
	err := f.part.Sync()
	if f.old != nil {
		if st, ok := f.old.Sys().(*syscall.Stat_t); ok && err == nil {
			f.part.Chown(int(st.Uid), int(st.Gid)) // only root may give a file away
		}
		err = cmp.Or(err, f.part.Chmod(f.old.Mode().Perm()))
	}
	if err == nil {
		err = os.Rename(f.part.Name(), f.target) // while the lock is held
	}
	if err != nil {
		f.discard()
		return about(f.path, err)
	}
	f.part.Close()
	return lockfile.SyncDir(filepath.Dir(f.target))
}

func (f *newFile) discard() {
	os.Remove(f.part.Name())
	f.part.Close()
}

// Replace writes a file in one step: a reader sees all of the new content, or the old
// file.
func Replace(path string, content []byte) error {
	f, err := create(path)
	if err != nil {
		return about(path, err)
	}
	if _, err := f.Write(content); err != nil {
		f.discard()
		return err
	}
	return f.commit()
}
