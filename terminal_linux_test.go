package gbatch

import (
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"gbatch/pkg/emulator"
)

// A screen is a terminal emulator. It knows the control sequences that a block
// uses, and no others.
type screen struct {
	width, height int

	mu       sync.Mutex
	lines    [][]rune // all lines so far; the last height of them are on the screen
	row, col int      // of the cursor, in lines
	rest     []byte   // the beginning of a sequence
	raw      []byte   // all that was written
	strange  []string // what the emulator does not know
	changed  chan struct{}
}

func newScreen(width, height int) *screen {
	return &screen{width: width, height: height, lines: [][]rune{nil}, changed: make(chan struct{})}
}

var sequence = regexp.MustCompile(`^\x1b\[([0-9]*)([A-Za-z])`)

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw = append(s.raw, p...)
	in := append(s.rest, p...)
	for len(in) > 0 {
		if in[0] == 0x1b {
			m := sequence.FindSubmatch(in)
			if m == nil && len(in) < 8 {
				break
			}
			if m == nil {
				s.strange = append(s.strange, fmt.Sprintf("%q", in[:8]))
				in = in[1:]
				continue
			}
			n, _ := strconv.Atoi(string(m[1]))
			s.control(m[2][0], n, string(m[0]))
			in = in[len(m[0]):]
			continue
		}
		if !utf8.FullRune(in) {
			break
		}
		r, n := utf8.DecodeRune(in)
		in = in[n:]
		s.put(r)
	}
	s.rest = append([]byte(nil), in...)
	close(s.changed)
	s.changed = make(chan struct{})
	return len(p), nil
}

func (s *screen) control(final byte, n int, text string) {
	switch {
	case final == 'A':
		s.row = max(s.row-max(n, 1), len(s.lines)-s.height, 0)
	case final == 'K' && n == 0:
		s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
	case final == 'J' && n == 0:
		s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
		for i := s.row + 1; i < len(s.lines); i++ {
			s.lines[i] = nil
		}
	default:
		s.strange = append(s.strange, fmt.Sprintf("%q", text))
	}
}

func (s *screen) put(r rune) {
	switch {
	case r == '\r':
		s.col = 0
	case r == '\n':
		s.down()
	case r < ' ':
		s.strange = append(s.strange, fmt.Sprintf("%q", r))
	default:
		if s.col == s.width {
			s.col = 0
			s.down()
		}
		line := s.lines[s.row]
		for len(line) <= s.col {
			line = append(line, ' ')
		}
		line[s.col] = r
		s.lines[s.row] = line
		s.col++
	}
}

func (s *screen) down() {
	if s.row++; s.row == len(s.lines) {
		s.lines = append(s.lines, nil)
	}
}

// String returns all lines, without blanks at their ends, and without empty lines
// at the end.
func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(strings.TrimRight(string(l), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// A terminal is a pseudo-terminal with a shell that runs a line of commands.
type terminal struct {
	*testing.T
	*screen
	server *emulator.Server
	dir    string
	master *os.File
	cmd    *exec.Cmd
	done   chan struct{} // closed when all output has been read
}

// start runs a script of bash on a terminal of some size, beside a database with
// 80 chunks, which are 40 batches. LINE is the line of six commands.
func start(t *testing.T, width, height int, script string, faults []string, env ...string) *terminal {
	t.Helper()
	dir := t.TempDir()
	server, err := emulator.New(emulator.Options{Dir: filepath.Join(dir, "emulator"), Polls: 1, Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	web := httptest.NewServer(server)
	t.Cleanup(func() { web.CloseClientConnections(); web.Close() })
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()

	var chunks strings.Builder
	for i := range 80 {
		fmt.Fprintf(&chunks, `{"id":"c%02d","text":"passage number %d"}`+"\n", i, i)
	}
	environment := append(os.Environ(), "GOOGLE_GEMINI_BASE_URL="+web.URL, "GEMINI_API_KEY=k", "XDG_STATE_HOME="+dir, "XDG_RUNTIME_DIR=", "TMPDIR="+dir, "TERM=xterm",
		"GBATCH_INTERVAL=10ms", "GBATCH_SETTLE=1s", "GBATCH_MAX_REQUESTS=2", "LINE=chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb")
	environment = append(environment, env...)
	add := exec.Command("chunks-add", "kb.duckdb")
	add.Dir, add.Env, add.Stdin = dir, environment, strings.NewReader(chunks.String())
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	x := &terminal{T: t, screen: newScreen(width, height), server: server, dir: dir, master: master, done: make(chan struct{})}
	x.cmd = exec.Command("bash", "-c", script)
	x.cmd.Dir, x.cmd.Env = dir, environment
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(x.done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			x.Write(buf[:n])
			if err != nil { // EIO: no process has the terminal open any more
				return
			}
		}
	}()
	t.Cleanup(func() {
		syscall.Kill(-x.cmd.Process.Pid, syscall.SIGKILL)
		x.cmd.Wait()
		<-x.done
		master.Close()
	})
	return x
}

// await waits until the screen shows something that matches an expression.
func (x *terminal) await(expression string) string {
	x.Helper()
	re := regexp.MustCompile("(?m)" + expression)
	return x.until(expression, func() bool { return re.MatchString(x.String()) })
}

// printed waits until a text was printed, and maybe cut into several lines.
func (x *terminal) printed(text string) {
	x.Helper()
	x.until(text, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return strings.Contains(string(x.raw), text)
	})
}

// until waits until the screen shows what is wanted, and returns its text.
func (x *terminal) until(what string, shown func() bool) string {
	x.Helper()
	late := time.After(2 * time.Minute)
	for {
		x.mu.Lock()
		changed := x.changed
		x.mu.Unlock()
		if text := x.String(); shown() {
			return text
		}
		select {
		case <-changed:
		case <-x.done:
			x.Fatalf("the commands have ended, and the screen does not show %q:\n%s", what, x.String())
		case <-late:
			x.Fatalf("the screen does not show %q:\n%s", what, x.String())
		}
	}
}

// held waits until a call is held at a name.
func (x *terminal) held(name string) {
	x.Helper()
	ctx, stop := context.WithTimeout(x.Context(), 2*time.Minute)
	defer stop()
	if err := x.server.WaitHold(ctx, name); err != nil {
		x.Fatalf("no call is held at %s: %v\n%s", name, err, x.String())
	}
}

// end waits for the end of the script, and checks what holds for every screen.
func (x *terminal) end() string {
	x.Helper()
	err := x.cmd.Wait()
	<-x.done
	text := x.String()
	if err != nil {
		x.Errorf("%v:\n%s", err, text)
	}
	if len(x.strange) > 0 {
		x.Errorf("the terminal was sent %s", x.strange)
	}
	if left, _ := filepath.Glob(filepath.Join(x.dir, "gbatch-progress*")); len(left) > 0 {
		x.Errorf("files are left: %v", left)
	}
	return text
}

// pid returns the process of a command on the terminal.
func (x *terminal) pid(name string) int {
	x.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range found {
		stat, _ := os.ReadFile(path)
		var pid, ppid, group, session int
		_, after, _ := strings.Cut(string(stat), ") ")
		fmt.Sscanf(after, "%1s %d %d %d", new(string), &ppid, &group, &session)
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		first, _, _ := strings.Cut(string(command), "\x00")
		if session == x.cmd.Process.Pid && filepath.Base(first) == name {
			pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	x.Fatalf("there is no process %s", name)
	return 0
}

// twelve waits until chunks-pending and to-jsonl have ended, 12 of the 40 jobs are
// applied, and the 13th create is held. The screen is then the same in each run.
func (x *terminal) twelve() {
	x.Helper()
	x.printed("chunks-pending: 40 of 40 ")
	x.printed("to-jsonl: 120 lines")
	x.held("first")
	x.server.Release("first")
	x.held("create")
	for { // until the 12 jobs are applied
		data, _ := os.ReadFile(filepath.Join(x.dir, "applied.ndjson"))
		x.mu.Lock()
		n := strings.Count(string(data), `"succeeded":2`) + strings.Count(string(x.raw), `"succeeded":2`)
		x.mu.Unlock()
		if n == 12 {
			return
		}
		if x.Context().Err() != nil {
			x.Fatal(x.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// running lets the other jobs be created, and keeps them running.
func (x *terminal) running() {
	x.Helper()
	if err := x.server.SetFaults([]string{`get set='metadata.state="BATCH_STATE_RUNNING"' set=done set='metadata.batchStats={"requestCount":"2","successfulRequestCount":"1"}'`}); err != nil {
		x.Fatal(err)
	}
	x.server.Release("create")
}

// finish lets all jobs end.
func (x *terminal) finish() {
	x.Helper()
	if err := x.server.SetFaults(nil); err != nil {
		x.Fatal(err)
	}
}

var hold = []string{"create nth=1 hold=first when=before", "create nth=13 hold=create when=before"}

// bars returns the bars in a text.
func bars(text string) []string { return regexp.MustCompile("[█░]+").FindAllString(text, -1) }

// rows returns the rows of the block at the end of a screen.
func rows(text string) (rows []string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := len(lines) - 1; i >= 0 && row.MatchString(lines[i]); i-- {
		rows = append([]string{lines[i]}, rows...)
	}
	return rows
}

var row = regexp.MustCompile(`^(chunks-pending|to-jsonl|gbatch-submit|gbatch-wait|gbatch-fetch|vectors-apply) `)

var update = flag.Bool("update", false, "write docs/terminal.md")

// TestTerminal records a run of 40 jobs on a terminal. It compares the record with
// docs/terminal.md, but for numbers, times and bars.
func TestTerminal(t *testing.T) {
	x := start(t, 100, 30, `set -o pipefail; eval "$LINE > applied.ndjson"`, hold)
	x.twelve()
	submitting := x.await(`^gbatch-submit +12 of 14\+ batches.*\n.*\n.*\nvectors-apply +12 jobs, 24 vectors`)
	x.running()
	waiting := x.await(`^gbatch-wait .*12 of 40 jobs, 52 of 80 requests, .*expires in 47h`)
	x.finish()
	ended := x.end()
	if len(bars(waiting)) != 1 || len(bars(ended)) > 0 {
		t.Errorf("the bars are %q and then %q", bars(waiting), bars(ended))
	}

	names := func(rows []string) (names []string) {
		for _, r := range rows {
			names = append(names, strings.Fields(r)[0])
		}
		return names
	}
	if got := fmt.Sprint(names(rows(submitting))); got != "[gbatch-submit gbatch-wait gbatch-fetch vectors-apply]" {
		t.Errorf("while batches are submitted, the rows are %s:\n%s", got, submitting)
	}
	if got := fmt.Sprint(names(rows(waiting))); got != "[gbatch-wait gbatch-fetch vectors-apply]" {
		t.Errorf("while jobs run, the rows are %s:\n%s", got, waiting)
	}
	for _, want := range []string{
		`^\d\d:\d\d:\d\d chunks-pending: 40 of 40 batches, 80 chunks, \S+/s in \S+$`,
		`^\S+ gbatch-submit: 40 of 40 batches, \S+ kB, \S+ .?B/s in \S+$`,
		`^\S+ gbatch-wait: 40 of 40 jobs, 80 of 80 requests in \S+$`,
		`^\S+ gbatch-fetch: 40 of 40 jobs, 80 of 80 answers, \S+ .B, \S+ .?B/s in \S+$`,
		`^\S+ vectors-apply: 40 jobs, 80 vectors, \S+/s in \S+$`,
	} {
		if !regexp.MustCompile("(?m)" + want).MatchString(ended) {
			t.Errorf("at the end the terminal does not show %s:\n%s", want, ended)
		}
	}
	if n := strings.Count(ended, "\n"); n != 6 {
		t.Errorf("the terminal shows %d lines at the end, not one for each command:\n%s", n, ended)
	}

	const path = "docs/terminal.md"
	doc, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(doc), "## While")
	record := head
	for _, part := range []struct{ title, text string }{{"While batches are submitted", submitting}, {"While jobs run", waiting}, {"At the end", ended}} {
		record += "## " + part.title + "\n\n```text\n" + part.text + "```\n\n"
	}
	record = strings.TrimRight(record, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(record), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got, want := structure(record), structure(string(doc)); got != want {
		t.Errorf("%s is not such a run; go test . -run TestTerminal -update writes it again:\n%s", path, record)
	}
}

// structure replaces the parts of a recorded run that differ in each run.
func structure(text string) string {
	text = regexp.MustCompile(`[█░]+`).ReplaceAllString(text, "BAR")
	text = regexp.MustCompile(`\d[\d,.:]*( [kMG]?B(/s)?|/s|[hms]\w*)`).ReplaceAllString(text, "N")
	return regexp.MustCompile(`\d\d:\d\d:\d\d|  +`).ReplaceAllString(text, " ")
}

// TestKilledRow kills a process of the line: its row goes, and the rows of the
// others stay. Records for the terminal itself, and messages, go above the rows.
func TestKilledRow(t *testing.T) {
	x := start(t, 100, 30, `eval "$LINE -v"; true`, hold)
	x.twelve()
	x.running()
	x.await(`^gbatch-wait .*12 of 40 jobs`)
	if err := syscall.Kill(x.pid("gbatch-fetch"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	x.await(`vectors-apply: 12 jobs, 24 vectors`) // its input has ended
	text := x.await(`^gbatch-wait .*expires in 47h…?\n\z`)
	wrapped := strings.ReplaceAll(text, "\n", "")
	if n := len(regexp.MustCompile(`{"job":"batches/\w{36}","batch":"[^{}]*"succeeded":2,"failed":0,"tokens":\d+,"created":"[^"]*","ended":"[^"]*"}`).FindAllString(wrapped, -1)); n != 12 {
		t.Errorf("%d of 12 records are whole:\n%s", n, text)
	}
	if got := rows(text); len(got) != 1 || !strings.HasPrefix(got[0], "gbatch-wait ") {
		t.Errorf("the rows are %q:\n%s", got, text)
	}
	x.finish()
	text = x.end()
	if !strings.Contains(text, "gbatch-wait: 40 of 40 jobs") && !strings.Contains(text, "gbatch-wait: 13 of 40 jobs") {
		t.Errorf("gbatch-wait does not say how far it came:\n%s", text)
	}
}

// TestAllKilled kills all processes. The next line on the terminal draws below
// what they left.
func TestAllKilled(t *testing.T) {
	x := start(t, 100, 30, `set -m; eval "$LINE > applied.ndjson"; echo killed; eval "$LINE > applied.ndjson"; rm -r gbatch-progress-*`, hold)
	x.twelve()
	text := x.await(`^gbatch-submit +12 of 14\+`)
	group, err := unix.IoctlGetInt(int(x.master.Fd()), unix.TIOCGPGRP)
	if err != nil {
		t.Fatal(err)
	}
	if group == x.cmd.Process.Pid {
		t.Fatal("the line has no process group of its own")
	}
	syscall.Kill(-group, syscall.SIGKILL)
	x.await(`^killed`)
	x.finish()
	x.server.Release("create")
	x.cmd.Wait()
	<-x.done
	after := x.String()
	for _, r := range rows(text) {
		if !strings.Contains(after, r) && !strings.Contains(after, strings.Fields(r)[0]+" ") {
			t.Errorf("the row %q of a killed process was overwritten:\n%s", r, after)
		}
	}
	if !strings.Contains(after, "killed\n") || !strings.Contains(after, "vectors-apply: ") {
		t.Errorf("the terminal shows:\n%s", after)
	}
}

// TestBackground starts the line in the background: nothing is drawn. It is drawn
// in the foreground, not while the shell has the terminal, and again later, below
// what the shell printed.
func TestBackground(t *testing.T) {
	x := start(t, 100, 40, `set -m; eval "$LINE > applied.ndjson &"; read -p 'in front? '; fg > fg; echo the shell again; read -p 'in front? '; fg >> fg`, hold)
	x.twelve()
	if text := x.String(); len(rows(text)) > 0 || strings.Contains(string(x.raw), "\x1b") {
		t.Errorf("in the background something is drawn:\n%s", text)
	}
	x.running()
	x.master.WriteString("yes\n")
	x.await(`^gbatch-wait .*12 of 40 jobs`)
	x.master.WriteString("\x1a") // Ctrl-Z
	x.await(`^in front\? \z|the shell again\nin front\?`)
	stopped := x.String()
	x.master.WriteString("yes\n")
	text := x.await(`the shell again\nin front\? yes\n(.*\n)*gbatch-wait .*12 of 40 jobs`)
	if !strings.HasPrefix(text, strings.TrimSpace(stopped)) {
		t.Errorf("what was on the terminal was overwritten:\n%s\nIt was:\n%s", text, stopped)
	}
	x.finish()
	if text, ok := strings.CutPrefix(x.end(), strings.TrimSpace(stopped)); !ok || len(bars(text)) > 0 {
		t.Errorf("rows are left:\n%s", text)
	}
}

// TestNarrow: on 20 columns the rows still say what matters most, and no line
// wraps.
func TestNarrow(t *testing.T) {
	x := start(t, 20, 12, `eval "$LINE > applied.ndjson"`, hold)
	x.twelve()
	x.running()
	text := x.await(`^wait 12 of 40 jobs…?\nfetch 12 of .*…\napply 12 jobs, .*…\n\z`)
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(line); n > 21 {
			t.Errorf("the line %q has %d columns", line, n)
		}
	}
	x.finish()
	x.end()
}

// TestPlain: with TERM=dumb or --progress never no control sequence is written, and
// with NO_COLOR none that sets a color.
func TestPlain(t *testing.T) {
	for _, env := range []string{"TERM=dumb", "TERM=", "GBATCH_PROGRESS=never"} {
		x := start(t, 80, 24, `eval "$LINE > applied.ndjson"`, nil, env, "GBATCH_MAX_REQUESTS=100")
		text := x.end()
		if strings.Contains(string(x.raw), "\x1b") || strings.Count(text, " in ") != 6 {
			t.Errorf("with %s the terminal shows:\n%s", env, text)
		}
	}
	x := start(t, 80, 24, `eval "$LINE > applied.ndjson"`, hold, "NO_COLOR=1")
	x.twelve()
	x.server.Release("create")
	x.end() // which knows no sequence that sets a color
}

// TestTerminalInput: a command that waits for records from a terminal says so.
func TestTerminalInput(t *testing.T) {
	x := start(t, 80, 24, `to-jsonl 2>&1 > requests`, nil)
	x.await(`to-jsonl: warning: reading records from the terminal`)
	x.master.WriteString("\x04") // Ctrl-D
	x.end()
}
