// Package cli is what all commands share: flags, log, progress and signals. It is
// the only package that ends the process.
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
	"reflect"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/progress"
)

// A Command is a value whose exported fields are its flags, described by kong's
// struct tags. Its Run does the work. in and out carry only records.
type Command interface {
	Run(ctx context.Context, in io.Reader, out io.Writer) error
}

// caught is the cause of a context that a signal has ended.
type caught struct{ syscall.Signal }

func (c caught) Error() string { return c.Signal.String() }
func (c caught) ExitCode() int { return 128 + int(c.Signal) }

type grammar struct {
	Command `embed:""`
	Verbose bool             `short:"v" help:"Report on stderr what is being done." env:"-"`
	Quiet   bool             `short:"q" help:"Write only errors to stderr." env:"-"`
	Version kong.VersionFlag `help:"Print the version." env:"-"`

	Progress  string `help:"Progress on stderr: auto (rows on a terminal, a line every 30 seconds with -v), always (also a line without -v), never, or json (an object a second)." enum:"auto,always,never,json" default:"auto"`
	LogFormat string `help:"Form of the lines on stderr: text or json." enum:"text,json" default:"text"`
}

// Main runs cmd with the process's arguments and streams, and ends the process
// with the exit code of its error. manual is the source of the command's
// main.go: its package comment is the text of --help.
func Main(manual string, cmd Command) {
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:], manual, cmd))
}

func run(name string, args []string, manual string, cmd Command) int {
	stderr := &cleaner{w: os.Stderr, secrets: []string{os.Getenv("GEMINI_API_KEY"), os.Getenv("GOOGLE_API_KEY")}}
	var out io.Writer = os.Stdout
	block := progress.Terminal(os.Stderr)
	if block != nil {
		stderr.w, out = block, block.Stdout(os.Stdout)
	}
	g := grammar{Command: cmd}
	logged := false // errors are logged
	fail := func(err error) int {
		if text := screen(err.Error()); logged && g.LogFormat == "json" {
			slog.Error(text)
		} else {
			fmt.Fprintf(stderr, "%s: error: %s\n", name, Printable(text))
		}
		return exit.Code(err)
	}

	done := -1 // the exit code of --help or --version; -1 for other calls
	parser, err := g.parser(name, kong.Description(Comment(manual)), kong.Help(printHelp(manual)), kong.Writers(os.Stdout, stderr), kong.Exit(func(code int) { done = code }))
	if err != nil {
		return fail(err)
	}
	parsed, err := parser.Parse(args)
	if done >= 0 {
		return done
	} else if err != nil {
		text := strings.Replace(err.Error(), `,"" but got`, " but got", 1) // an enum that may be empty
		return fail(exit.Errorf(exit.Usage, "%s (see %s --help)", text, name))
	}
	tellVariables(cmd, parsed)

	slog.SetDefault(slog.New(g.handler(name, stderr)))
	logged = true
	defer warnUnknown(os.Environ(), parsed.Flags())()

	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := <-signals
		cancel(caught{s.(syscall.Signal)})
		// A second signal ends the process at once, unless it is the echo of the
		// first one: timeout(1) signals its child, and then its child's group.
		time.Sleep(500 * time.Millisecond)
		signal.Reset(syscall.SIGINT, syscall.SIGTERM)
	}()
	// If the reader of the output has stopped, a write fails with EPIPE, so that
	// the command can clean up before it ends.
	signal.Ignore(syscall.SIGPIPE)

	task := progress.New(name)
	ended := g.follow(task, block, stderr)
	err = work(progress.With(ctx, task), cmd, out)
	ended()
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

// work runs a command on its files.
func work(ctx context.Context, cmd Command, stdout io.Writer) error {
	in, err := openInput(ctx, cmd)
	if err != nil {
		return err
	}
	out, err := openOutput(ctx, cmd, stdout)
	if err != nil {
		return err
	}
	return out.end(cmd.Run(ctx, in, out.Writer))
}

// parser returns the parser of the command's flags.
func (g *grammar) parser(name string, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(g, append(options,
		kong.Name(name),
		kong.DefaultEnvars(prefix),
		kong.KindMapper(reflect.String, kong.MapperFunc(exact)),
		kong.Vars{
			"version": name + " " + versions(g.Command),
			"model":   model.Default, "dim": strconv.Itoa(model.DefaultDim), "task_type": model.DefaultTaskType, "max_dim": strconv.Itoa(model.MaxDim),
		})...)
}

// exact sets a string. The mapper of kong replaces the bytes of an argument that are
// not UTF-8, and the command would open another file than the one of that name.
func exact(ctx *kong.DecodeContext, target reflect.Value) error {
	t, err := ctx.Scan.PopValue("string")
	if err == nil {
		target.SetString(t.String())
	}
	return err
}

// tellVariables tells a command which of its flags have their value from an
// environment variable, if the command has a method for that.
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

// IsTerminal reports whether f is a terminal.
func IsTerminal(f interface{ Fd() uintptr }) bool { return term.IsTerminal(int(f.Fd())) }

// Version returns the tag or the commit of the program, and the day of the commit
// if it is known.
func Version() (version, day string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	version = info.Main.Version
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && (version == "" || version == "(devel)"):
			version = s.Value
		case s.Key == "vcs.time":
			day, _, _ = strings.Cut(s.Value, "T")
		}
	}
	return version, day
}

// versions names the program's version, Go, and what the commands are linked with.
func versions(commands ...Command) string {
	version, _ := Version()
	version += " " + runtime.Version()
	for _, cmd := range commands {
		if c, ok := cmd.(interface{ LinkedWith() string }); ok {
			return version + " " + c.LinkedWith()
		}
	}
	return version
}

// screen cuts the middle out of a message that is longer than a screen, such as
// a message of DuckDB that lists a thousand values of a type. The end of the
// message says what to do.
func screen(s string) string {
	const head, tail = 1000, 500
	if len(s) <= head+tail {
		return s
	}
	return strings.ToValidUTF8(s[:head], "") + " … " + strings.ToValidUTF8(s[len(s)-tail:], "")
}

// Printable writes as \u escapes what a terminal would obey or show in another
// order: control characters, and the marks that change the direction of text. It
// keeps the line end.
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

// ShortestSecret is the length from which a key is hidden in the output.
// Google's keys have 39 characters. A short key, such as one for an emulator, is
// a part of many words.
const ShortestSecret = 8

// A cleaner hides secrets in what is written through it. Every caller writes
// whole lines.
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
