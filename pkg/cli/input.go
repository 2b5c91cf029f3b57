package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gbatch/pkg/exit"
)

// Files are the arguments of a command that reads records. [Main] gives the command
// their content as its input. The command must read it with an ndjson.Reader, which
// knows where a file ends.
type Files struct {
	File []string `arg:"" optional:"" help:"Files to read in place of stdin, in this order; - is stdin."`
}

func (f *Files) inputs() []string { return f.File }

// An input is what a command reads: stdin or files. Read stops when the context is
// done, even while it waits for a file: a pipe whose writer sleeps must not keep a
// command running. It is the ndjson.Files of the command.
type input struct {
	ctx   context.Context
	names []string // the present file and those after it; none for stdin alone
	f     *os.File // the present file; nil if it is not opened yet
	told  bool     // no message about the terminal is wanted
}

// openInput returns the input of a command.
func openInput(ctx context.Context, cmd Command) (io.ReadCloser, error) {
	c, ok := cmd.(interface{ inputs() []string })
	if !ok || len(c.inputs()) == 0 {
		return &input{ctx: ctx, f: os.Stdin}, nil
	}
	return Open(ctx, c.inputs()...)
}

// Open returns the content of files, in this order; - is stdin. It refuses a file that
// cannot be read before anything is done. It opens no file, because a named pipe would
// wait for its writer. An ndjson.Reader of it knows where a file ends.
func Open(ctx context.Context, names ...string) (io.ReadCloser, error) {
	for _, name := range names {
		if name == "-" {
			continue
		}
		info, err := os.Stat(name)
		if err == nil && !info.IsDir() {
			err = unix.Access(name, unix.R_OK)
		}
		if err == nil && info.IsDir() {
			err = syscall.EISDIR
		}
		if err != nil {
			return nil, exit.With(exit.Usage, about(name, err))
		}
	}
	return &input{ctx: ctx, names: names, told: true}, nil
}

// about is the error of a file without the name of a system call.
func about(name string, err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		err = e.Err
	} else if e := new(os.LinkError); errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// FileName implements ndjson.Files.
func (in *input) FileName() string {
	switch {
	case len(in.names) == 0:
		return ""
	case in.names[0] == "-":
		return "stdin"
	}
	return in.names[0]
}

// NextFile implements ndjson.Files.
func (in *input) NextFile() bool {
	if len(in.names) < 2 {
		return false
	}
	in.Close()
	in.names = in.names[1:]
	return true
}

func (in *input) Close() (err error) {
	if in.f != nil && in.f != os.Stdin {
		err = in.f.Close()
	}
	in.f = nil
	return err
}

// Do not call Read again after it has stopped: a goroutine may still write to p.
func (in *input) Read(p []byte) (int, error) {
	if in.ctx.Err() != nil {
		return 0, context.Cause(in.ctx)
	}
	if in.f == nil {
		if err := in.open(); err != nil {
			return 0, err
		}
	}
	// Waiting in another goroutine costs as much time as the work of a fast
	// filter.
	if in.ready() {
		return in.f.Read(p)
	}
	var notice <-chan time.Time
	if !in.told && IsTerminal(in.f) {
		in.told, notice = true, time.After(time.Second)
	}
	return wait(in.ctx, notice, func() (int, error) { return in.f.Read(p) })
}

func (in *input) open() (err error) {
	if in.names[0] == "-" {
		in.f = os.Stdin
		return nil
	}
	in.f, err = wait(in.ctx, nil, func() (*os.File, error) { return os.Open(in.names[0]) })
	return err
}

// ready reports whether the file can be read without waiting.
func (in *input) ready() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(in.f.Fd()), Events: unix.POLLIN}}, 0)
	return n > 0 && err == nil
}

// wait returns what a call returns that may block, or the cause of ctx if ctx is done
// before. At a notice it says that it waits for a terminal.
func wait[T any](ctx context.Context, notice <-chan time.Time, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	got := make(chan result, 1)
	go func() {
		v, err := call()
		got <- result{v, err}
	}()
	for {
		select {
		case r := <-got:
			return r.value, r.err
		case <-ctx.Done():
			var none T
			return none, context.Cause(ctx)
		case <-notice:
			slog.Warn("reading records from the terminal; end them with Ctrl-D, or stop with Ctrl-C and give a file or a pipe")
		}
	}
}
