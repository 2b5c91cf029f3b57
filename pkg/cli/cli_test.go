package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"gbatch/pkg/exit"
	"gbatch/pkg/guess"
	"gbatch/pkg/progress"
)

// A probe is a command that does what its flag says.
type probe struct {
	Do   string `default:"nothing" help:"What to do."`
	Size Size   `default:"1KB" help:"A size."`
	Name string `arg:"" optional:"" help:"A name."`
}

const manual = `// Probe is a manual
// of two lines.
//
//	probe --do nothing
package main
// not this
`

func (p *probe) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	switch p.Do {
	case "nothing":
		_, err := fmt.Fprintf(out, "%d\n", p.Size)
		return err
	case "fail":
		return errors.New("it went wrong with k3y-secret\x1b[31m and\nso on")
	case "code":
		return fmt.Errorf("wrapped: %w", exit.Errorf(exit.Unknown, "the code is inside"))
	case "log":
		slog.Debug("a debug line")
		slog.Info("an info line")
		slog.Warn("a warning", "key", "k3y-secret", "text", "\x1b[31mred")
		return nil
	case "write":
		for {
			if _, err := fmt.Fprintln(out, "line"); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
	case "count":
		things := progress.Of(ctx).Flow("things")
		things.Expect(8)
		things.Final()
		for range 4 {
			things.Add(2)
			time.Sleep(400 * time.Millisecond)
		}
	case "wait":
		fmt.Fprintln(out, "ready")
		<-ctx.Done()
		return errors.New("stopped while waiting, the jobs go on")
	case "read":
		fmt.Fprintln(out, "ready")
		_, err := io.ReadAll(in)
		return err
	}
	return nil
}

func TestMain(m *testing.M) {
	if os.Getenv("BE_PROBE") != "" {
		lineEvery = 10 * time.Millisecond
		Main(manual, new(probe))
	}
	os.Exit(m.Run())
}

func start(t *testing.T, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "probe"
	cmd.Env = append(os.Environ(), "BE_PROBE=1", "GEMINI_API_KEY=k3y-secret")
	return cmd
}

func TestRun(t *testing.T) {
	for _, test := range []struct {
		args             string
		code             int
		stdout, stderr   string // what the streams hold; "" if nothing
		environment, not string
	}{
		{args: "", stdout: "1000\n"},
		{args: "--size 64KiB", stdout: "65536\n"},
		{args: "", environment: "GBATCH_SIZE=2MB", stdout: "2000000\n"},
		{args: "--size 1XB", code: exit.Usage, stderr: `probe: error: --size: "1XB" is not a size such as 100MB or 64KiB (see probe --help)`},
		{args: "--nonsense", code: exit.Usage, stderr: "probe: error: unknown flag --nonsense (see probe --help)\n"},
		{args: "a b", code: exit.Usage, stderr: "probe: error: unexpected argument b"},
		{args: "--help", stdout: "Probe is a manual of two lines."},
		{args: "--help", stdout: "--do=\"nothing\"", not: "not this"},
		{args: "--version", stdout: "probe "},
		{args: "--do fail", code: exit.Failed, stderr: `probe: error: it went wrong with [API key]\u001b[31m and\u000aso on` + "\n", not: "k3y"},
		{args: "--do code", code: exit.Unknown, stderr: "probe: error: wrapped: the code is inside\n"},
		{args: "--do log", stderr: " probe: warning: a warning key=[API key] text", not: "k3y"},
		{args: "--do log", stderr: `text="\x1b[31mred"`, not: "\x1b"},
		{args: "--do log -q"},
		{args: "--do log -v", stderr: " probe: an info line\n"},
	} {
		cmd := start(t, strings.Fields(test.args)...)
		if test.environment != "" {
			cmd.Env = append(cmd.Env, test.environment)
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != test.code {
			t.Errorf("%q: exit code %d, want %d", test.args, code, test.code)
		}
		for _, s := range []struct{ what, got, want string }{{"stdout", stdout.String(), test.stdout}, {"stderr", stderr.String(), test.stderr}} {
			if !strings.Contains(s.got, s.want) || s.want == "" && s.got != "" {
				t.Errorf("%q: %s is %q, want %q", test.args, s.what, s.got, s.want)
			}
			if test.not != "" && strings.Contains(s.got, test.not) {
				t.Errorf("%q: %s holds %q: %s", test.args, s.what, test.not, s.got)
			}
		}
	}
}

// TestProgress: without a terminal there is a line every so often with -v, and an
// object a second with --progress json. The last line says what was done.
func TestProgress(t *testing.T) {
	const line, end, object = `\d\d:\d\d:\d\d probe: [2468] of 8 things(, \d+/s)?(, .* left)?`, `\d\d:\d\d:\d\d probe: 8 of 8 things, \d/s in \d\.\ds`, `{"time":.*,"level":"info","msg":"progress","command":"probe","things":[2468],"things_total":8,"things_per_second":\d+(,"left":[\d.]+)?,"took":\d(\.\d+)?}`
	for args, want := range map[string]string{
		"":                             ``,
		"-v":                           `(` + line + `\n){20,}` + end + `\n`,
		"--progress always":            `(` + line + `\n){20,}` + end + `\n`,
		"--progress always -q":         ``,
		"--progress never -v":          end + `\n`,
		"--progress json -q":           `(` + object + `\n){1,4}{"time":.*"msg":"ended",.*"things":8,.*\n`,
		"--log-format json -v":         `(\{.*"msg":"progress",.*\n){20,}\{.*"msg":"ended".*\n`,
		"--progress json --do nothing": ``, // it counts nothing
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			cmd := start(t, append([]string{"--do", "count"}, strings.Fields(args)...)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(`\A` + want + `\z`).Match(stderr.Bytes()) {
				t.Errorf("stderr is not %s, but\n%s", want, &stderr)
			}
		})
	}
}

func TestReaderThatLeft(t *testing.T) {
	cmd := start(t, "--do", "write")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(out).ReadString('\n')
	out.Close()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 141 || stderr.Len() > 0 {
		t.Errorf("exit code %d, stderr %q", code, &stderr)
	}
}

func TestSignals(t *testing.T) {
	for _, test := range []struct {
		do     string
		signal syscall.Signal
		code   int
		stderr string
	}{
		{"wait", syscall.SIGINT, 130, "probe: error: stopped while waiting, the jobs go on\n"},
		{"wait", syscall.SIGTERM, 143, "probe: error: stopped while waiting, the jobs go on\n"},
		{"read", syscall.SIGTERM, 143, ""}, // although its input is open and empty
	} {
		cmd := start(t, "--do", test.do)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		bufio.NewReader(out).ReadString('\n')
		cmd.Process.Signal(test.signal)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != test.code || stderr.String() != test.stderr {
			t.Errorf("%v: exit code %d, stderr %q", test, code, &stderr)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"1": 1, "10b": 10, "1KB": 1000, "1kib": 1024, " 2 MB ": 2e6, "3GiB": 3 << 30, "0": 0, "-1": 0, "1.5MB": 0, "": 0, "MB": 0, "99999999999999GB": 0} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
}

// A message longer than a screen keeps its beginning and its end.
func TestScreen(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("é", 750)} {
		if got := screen(s); got != s {
			t.Errorf("%q becomes %q", s, got)
		}
	}
	got := screen("begin " + strings.Repeat("é", 5000) + " end")
	if len(got) > 1510 || !strings.HasPrefix(got, "begin é") || !strings.HasSuffix(got, "é end") || !strings.Contains(got, " … ") || strings.ContainsRune(got, utf8.RuneError) {
		t.Errorf("%q", got)
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"plain é 中 🙂":     "plain é 中 🙂",
		"\x1b[2J\a\u009b": `\u001b[2J\u0007\u009b`,
		"a\u202eb\u2066c": `a\u202eb\u2066c`,
		"line\nbreak\t":   `line\u000abreak\u0009`,
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q became %q, want %q", s, got, want)
		}
	}
}

func TestClosest(t *testing.T) {
	for v, want := range map[string]string{
		"GBATCH_MAX_REQUEST": "GBATCH_MAX_REQUESTS", "GBATCH_MAXREQUESTS": "GBATCH_MAX_REQUESTS", "GBATCH_MODLE": "GBATCH_MODEL", "GBATCH_TASKTYPE": "GBATCH_TASK_TYPE",
		"GBATCH_DIMS": "GBATCH_DIM", "GBATCH_": "", "GBATCH_SIZE": "", "GBATCH_SOMETHING_ELSE": "",
	} {
		if got := guess.Closest(v, variables, len(prefix)); got != want {
			t.Errorf("%s is close to %q, not to %q", v, got, want)
		}
	}
}

// The new file of a process that was killed is removed by the next one with the same
// --output. That of a living process stays, and gets its name.
func TestPartsOfKilledProcesses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out[1].ndjson")
	living, err := create(path)
	if err != nil {
		t.Fatal(err)
	}
	others := []string{".out[1].ndjson.gbatch-0123456", ".out[1].ndjson.01234567", ".out1.ndjson.gbatch-01234567", "out[1].ndjson.gbatch-01234567"}
	dead := []string{".out[1].ndjson.gbatch-01234567", ".out[1].ndjson.gbatch-abcdef01"}
	for _, name := range slices.Concat(others, dead) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := openOutput(t.Context(), &struct {
		Command
		Output
	}{Output: Output{path}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range dead {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	io.WriteString(o, "second")
	io.WriteString(living, "first")
	if err := living.commit(); err != nil {
		t.Fatal(err)
	}
	if err := o.end(nil); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "second" {
		t.Errorf("%s, %v", text, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != len(others)+1 {
		t.Errorf("left: %v", left)
	}
}
