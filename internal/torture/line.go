package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a line may take, on a machine that has other things to
// do. One that takes longer hangs.
const patience = 90 * time.Second

// A line is commands joined by pipes, as a shell runs them: processes of their
// own in a process group of their own.
type line struct {
	name  string // for the log
	procs []*process
	group int
	begun time.Time
	first chan struct{} // closed when the last command has printed a line
	ended chan struct{} // closed when all have ended and out is whole
	out   bytes.Buffer  // what the last command printed
}

type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	code  int // 137 where it was killed
}

// The lines that README.md shows.
var (
	attended = commands("chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb")
	flush    = commands("chunks-pending kb.duckdb | to-jsonl | gbatch-submit | vectors-apply kb.duckdb")
	collect  = commands("jobs-pending kb.duckdb | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb")
	submit   = commands("chunks-pending kb.duckdb | to-jsonl | gbatch-submit")
)

// The places of commands in the attended line.
const (
	whole     = -1
	submitter = 2
	waiter    = 3
	fetcher   = 4
)

func commands(s string) (argv [][]string) {
	for c := range strings.SplitSeq(s, "|") {
		argv = append(argv, strings.Fields(c))
	}
	return argv
}

// start starts a line that reads in and, where out is not nil, prints to it.
func (w *world) start(argv [][]string, in io.Reader, out *os.File) (l *line, err error) {
	w.lines++
	stderr, err := os.OpenFile(w.file("stderr"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	l = &line{begun: time.Now(), first: make(chan struct{}), ended: make(chan struct{})}
	var names []string
	for _, a := range argv {
		names = append(names, a[0])
	}
	l.name = strings.Join(names, " | ")
	fmt.Fprintf(stderr, "--- %d: %s\n", w.lines, l.name)

	var ours []*os.File // the ends of pipes that the processes have copies of
	defer func() {
		for _, f := range ours {
			f.Close()
		}
	}()
	var stdout *os.File // what is read here
	if out == nil {
		r, p, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		stdout, out = r, p
		ours = append(ours, p)
	}
	next := in
	env := w.environ()
	for i, a := range argv {
		cmd := exec.Command(a[0], a[1:]...)
		cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stderr, cmd.Stdout = w.home, env, next, stderr, out
		if i < len(argv)-1 {
			r, p, err := os.Pipe()
			if err != nil {
				return nil, errors.Join(err, l.abandon())
			}
			ours = append(ours, r, p)
			cmd.Stdout, next = p, r
		}
		// No process is waited for before all are started. So the number of the first
		// process stays that of the group, also after it has ended.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: l.group}
		if err := cmd.Start(); err != nil {
			return nil, errors.Join(err, l.abandon())
		}
		if i == 0 {
			l.group = cmd.Process.Pid
		}
		l.procs = append(l.procs, &process{cmd: cmd, ended: make(chan struct{})})
	}
	var all sync.WaitGroup
	for _, p := range l.procs {
		all.Go(func() {
			p.cmd.Wait()
			p.code = p.cmd.ProcessState.ExitCode()
			if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
				p.code = 128 + int(s.Signal())
			}
			close(p.ended)
		})
	}
	if stdout != nil {
		all.Go(func() {
			defer stdout.Close()
			r := bufio.NewReader(stdout)
			line, err := r.ReadBytes('\n')
			l.out.Write(line)
			if err == nil {
				close(l.first)
				io.Copy(&l.out, r)
			}
		})
	}
	go func() {
		all.Wait()
		close(l.ended)
	}()
	return l, nil
}

// abandon ends a line that could not be started whole.
func (l *line) abandon() error {
	for _, p := range l.procs {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
	return fmt.Errorf("%s could not be started", l.name)
}

// alive are the places of the processes that have not ended.
func (l *line) alive() (places []int) {
	for i, p := range l.procs {
		select {
		case <-p.ended:
		default:
			places = append(places, i)
		}
	}
	return places
}

// kill sends SIGKILL to the process at a place, or to the whole group, and
// reports whether there was anything left to kill.
func (l *line) kill(place int) bool {
	alive := l.alive()
	if place != whole {
		return slices.Contains(alive, place) && l.procs[place].cmd.Process.Kill() == nil
	}
	return len(alive) > 0 && syscall.Kill(-l.group, syscall.SIGKILL) == nil
}

// wait waits for all of the line's processes and returns their exit codes. A
// line that hangs must print its stacks.
func (l *line) wait() ([]int, error) {
	var err error
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-l.ended:
	case <-t.C:
		err = fmt.Errorf("the line hangs: %s (processes %v have not ended)", l.name, l.alive())
		syscall.Kill(-l.group, syscall.SIGQUIT)
		select {
		case <-l.ended:
		case <-time.After(5 * time.Second):
			l.kill(whole)
			<-l.ended
		}
	}
	var codes []int
	for _, p := range l.procs {
		codes = append(codes, p.code)
	}
	return codes, err
}

// run runs a line to its end and returns the exit code that a shell with
// pipefail would give.
func (w *world) run(argv [][]string, in io.Reader) (out string, code int, err error) {
	l, err := w.start(argv, in, nil)
	if err != nil {
		return "", 0, err
	}
	codes, err := w.end(l)
	if err != nil {
		return "", 0, err
	}
	for _, c := range codes {
		if c != 0 {
			code = c
		}
	}
	return l.out.String(), code, nil
}

// end waits for a line and notes how it ended.
func (w *world) end(l *line) ([]int, error) {
	codes, err := l.wait()
	w.logf("%s: exit codes %v, %d lines printed, %v", l.name, codes, bytes.Count(l.out.Bytes(), []byte("\n")), time.Since(l.begun).Round(time.Millisecond))
	return codes, err
}
