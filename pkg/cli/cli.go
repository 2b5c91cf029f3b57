// Package cli is what the commands share around their work: flags, log
// and signals. It is the only package that ends the process.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/charmbracelet/log"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// A Command is a value whose exported fields are its flags, by kong's struct
// tags, and whose Run is its work. in and out carry records and nothing else.
type Command interface {
	Run(ctx context.Context, in io.Reader, out io.Writer) error
}

// A signalled context's cause.
type caught struct{ syscall.Signal }

func (c caught) Error() string { return c.Signal.String() }
func (c caught) ExitCode() int { return 128 + int(c.Signal) }

type grammar struct {
	Command `embed:""`
	Verbose bool             `short:"v" help:"Report on stderr what is being done." env:"-"`
	Quiet   bool             `short:"q" help:"Write only errors to stderr." env:"-"`
	Version kong.VersionFlag `help:"Print the version." env:"-"`
}

// Main runs cmd with the process's arguments and streams, and ends the process
// with the exit code of its error. manual is the source of the command's
// main.go: its package comment is what --help prints.
func Main(manual string, cmd Command) {
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:], manual, cmd))
}

func run(name string, args []string, manual string, cmd Command) int {
	stderr := &cleaner{w: os.Stderr, secrets: []string{os.Getenv("GEMINI_API_KEY"), os.Getenv("GOOGLE_API_KEY")}}
	fail := func(err error) int {
		fmt.Fprintf(stderr, "%s: error: %s\n", name, Printable(screen(err.Error())))
		return exit.Code(err)
	}

	g := grammar{Command: cmd}
	done := -1 // --help and --version
	parser, err := kong.New(&g,
		kong.Name(name),
		kong.Description(comment(manual)),
		kong.DefaultEnvars("GBATCH"),
		kong.Vars{
			"version": name + " " + version(),
			"model":   model.Default, "dim": strconv.Itoa(model.DefaultDim), "task_type": model.DefaultTaskType, "max_dim": strconv.Itoa(model.MaxDim),
		},
		kong.Writers(os.Stdout, stderr),
		kong.Exit(func(code int) { done = code }),
	)
	if err != nil {
		return fail(err)
	}
	parsed, err := parser.Parse(args)
	if done >= 0 {
		return done
	} else if err != nil {
		return fail(exit.Errorf(exit.Usage, "%w (see %s --help)", err, name))
	}
	tellVariables(cmd, parsed)

	level := log.WarnLevel
	switch {
	case g.Quiet:
		level = log.ErrorLevel
	case g.Verbose:
		level = log.DebugLevel
	case IsTerminal(os.Stderr):
		level = log.InfoLevel
	}
	logger := log.NewWithOptions(stderr, log.Options{Level: level})
	styles := log.DefaultStyles()
	for l, s := range styles.Levels {
		text := name + ":"
		if l != log.InfoLevel && l != log.DebugLevel {
			text = name + ": " + map[log.Level]string{log.WarnLevel: "warning:"}[l]
		}
		styles.Levels[l] = s.SetString(text).UnsetMaxWidth()
	}
	logger.SetStyles(styles)
	slog.SetDefault(slog.New(logger))

	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := <-signals
		cancel(caught{s.(syscall.Signal)})
		// A second one ends the process at once, unless it is the echo of the
		// first: timeout(1) signals its child, and its child's group.
		time.Sleep(500 * time.Millisecond)
		signal.Reset(syscall.SIGINT, syscall.SIGTERM)
	}()
	// A reader that left shows as EPIPE, so that a command can put its things
	// in order before it ends.
	signal.Ignore(syscall.SIGPIPE)

	err = cmd.Run(ctx, &input{ctx, os.Stdin}, os.Stdout)
	var sig caught
	switch {
	case err == nil:
		return exit.OK
	case errors.As(context.Cause(ctx), &sig):
		if !errors.Is(err, context.Canceled) && !errors.As(err, new(caught)) {
			fail(err)
		}
		return sig.ExitCode()
	case errors.Is(err, syscall.EPIPE):
		return 128 + int(syscall.SIGPIPE)
	}
	return fail(err)
}

// tellVariables tells a command which of its flags have their value from an
// environment variable, if it wants to know.
func tellVariables(cmd Command, parsed *kong.Context) {
	c, ok := cmd.(interface{ FromVariable(flag string) })
	if !ok {
		return
	}
	given := map[*kong.Flag]bool{}
	for _, p := range parsed.Path {
		if p.Flag != nil {
			given[p.Flag] = true
		}
	}
	for _, f := range parsed.Flags() {
		for _, variable := range f.Envs {
			if _, set := os.LookupEnv(variable); set && !given[f] {
				c.FromVariable(f.Name)
			}
		}
	}
}

// An input is a reader that gives up when its context is done, also while it
// waits for its file: a pipe whose writer sleeps must not keep a command alive.
type input struct {
	ctx context.Context
	f   *os.File
}

// Read is not to be called again after it gave up: p is still written to then.
func (in *input) Read(p []byte) (int, error) {
	if in.ctx.Err() != nil {
		return 0, context.Cause(in.ctx)
	}
	// To wait in another goroutine costs as much as many a filter's work.
	if in.ready() {
		return in.f.Read(p)
	}
	type read struct {
		n   int
		err error
	}
	got := make(chan read, 1)
	go func() {
		n, err := in.f.Read(p)
		got <- read{n, err}
	}()
	select {
	case r := <-got:
		return r.n, r.err
	case <-in.ctx.Done():
		return 0, context.Cause(in.ctx)
	}
}

// ready reports whether a read of the file would not wait.
func (in *input) ready() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(in.f.Fd()), Events: unix.POLLIN}}, 0)
	return n > 0 && err == nil
}

// IsTerminal reports whether somebody looks at what is written to f.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// comment is the text of the package comment of a Go source file.
func comment(source string) string {
	var b strings.Builder
	for line := range strings.Lines(source) {
		text, ok := strings.CutPrefix(line, "//")
		if !ok {
			break
		}
		b.WriteString(strings.TrimPrefix(text, " "))
	}
	return strings.TrimSpace(b.String())
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	return v + " " + info.GoVersion
}

// screen cuts the middle out of a message that is longer than a screen, such as
// one of DuckDB's that spells out a type of a thousand words. Its end says what
// to do.
func screen(s string) string {
	const head, tail = 1000, 500
	if len(s) <= head+tail {
		return s
	}
	return strings.ToValidUTF8(s[:head], "") + " … " + strings.ToValidUTF8(s[len(s)-tail:], "")
}

// Printable is s with what a terminal would act on, or would show in another
// order than it stands, written as \u escapes: control characters but the
// line's own, and the marks that turn the direction of writing.
func Printable(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x061c || r == 0x200e || r == 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// ShortestSecret is how long a key must be to be looked for in what is printed.
// Google's have 39 characters; a short one, such as an emulator takes, is part
// of many a word.
const ShortestSecret = 8

// A cleaner keeps secrets out of what is written through it. Every caller
// writes whole lines.
type cleaner struct {
	w       io.Writer
	secrets []string
}

func (c *cleaner) Write(p []byte) (int, error) {
	s := string(p)
	for _, secret := range c.secrets {
		if len(secret) >= ShortestSecret {
			s = strings.ReplaceAll(s, secret, "[API key]")
		}
	}
	if _, err := io.WriteString(c.w, s); err != nil {
		return 0, err
	}
	return len(p), nil
}
