package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A contender is a command that is measured.
type contender struct {
	name  string
	note  string // a remark for its row in the report
	cores string // 1 or 2; empty if it may use all cores
	base  string // name of the contender for its ratio; empty if there is no ratio
	args  []string
	in    string  // path of a file
	work  float64 // bytes or items that a run processes
	codes []int   // exit codes that mean success, besides 0
	env   []string

	before func(*contender) error // not measured; may set the fields above
	after  func() error           // not measured
	server *server
	rows   []sample // one for each round
}

// A sample is the result of one run.
type sample struct {
	wall, cpu time.Duration
	server    time.Duration // processor time of the server during the run
	rss, own  int64         // peaks in bytes: all memory, and without the pages of files
	rate      float64       // work a second
}

// race runs the contenders, in another order each round.
func (b *bench) race(title string, all []*contender) error {
	random := rand.New(rand.NewPCG(b.seed, 0))
	for round := range b.rounds {
		say("  %s, round %d of %d", title, round+1, b.rounds)
		for _, i := range random.Perm(len(all)) {
			c := all[i]
			s, err := b.measure(c, nil)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			c.rows = append(c.rows, s)
		}
	}
	return nil
}

// measure runs a contender once. Its output goes to a file, or is dropped.
func (b *bench) measure(c *contender, out *os.File) (s sample, err error) {
	if c.before != nil {
		if err := c.before(c); err != nil {
			return s, err
		}
	}
	if c.after != nil {
		defer func() { err = cmp.Or(err, c.after()) }()
	}
	if out == nil {
		if out, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
			return s, err
		}
		defer out.Close()
	}
	in, err := os.Open(cmp.Or(c.in, os.DevNull))
	if err != nil {
		return s, err
	}
	defer in.Close()
	var begun time.Duration
	if c.server != nil {
		begun = c.server.cpu()
	}
	p, err := b.begin(c, in, out)
	if err != nil {
		return s, err
	}
	if s, err = p.end(); err != nil {
		return s, err
	}
	if c.server != nil {
		s.server = c.server.cpu() - begun
	}
	s.rate = c.work / s.wall.Seconds()
	return s, nil
}

// A process is a contender that runs under the timer.
type process struct {
	*contender
	cmd    *exec.Cmd
	stderr bytes.Buffer
	report *os.File
}

func (b *bench) begin(c *contender, in, out *os.File) (*process, error) {
	args := append([]string{"-cpus", map[string]string{"1": b.one, "2": b.two}[c.cores]}, c.args...)
	p := &process{contender: c, cmd: exec.Command(b.tool("timer"), args...)}
	report, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p.report = report
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = in, out, &p.stderr, []*os.File{theirs}
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Dir = b.dir
	if err := p.cmd.Start(); err != nil {
		report.Close()
		return nil, err
	}
	return p, nil
}

func (p *process) end() (s sample, err error) {
	defer p.report.Close()
	var r struct{ Wall, CPU, RSS, Own, Code int64 }
	decoded := json.NewDecoder(p.report).Decode(&r)
	if err := p.cmd.Wait(); err != nil || decoded != nil {
		return s, fmt.Errorf("%v: %w: %s", p.args, cmp.Or(err, decoded), p.stderr.Bytes())
	}
	if r.Code != 0 && !slices.Contains(p.codes, int(r.Code)) {
		return s, fmt.Errorf("%v: exit status %d: %s", p.args, r.Code, p.stderr.Bytes())
	}
	return sample{wall: time.Duration(r.Wall), cpu: time.Duration(r.CPU), rss: r.RSS, own: r.Own}, nil
}

// middle returns the median of f over the rounds.
func (c *contender) middle(f func(sample) float64) float64 {
	var v []float64
	for _, s := range c.rows {
		v = append(v, f(s))
	}
	return median(v)
}

// peak returns the peak memory of a run, in bytes.
func (c *contender) peak() float64 {
	return c.middle(func(s sample) float64 { return float64(s.rss) })
}

// own is the peak of the memory that is not pages of files.
func (c *contender) own() float64 {
	return c.middle(func(s sample) float64 { return float64(s.own) })
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// times returns how many times as fast as d c is: the median of the rounds'
// ratios.
func (c *contender) times(d *contender) float64 {
	var v []float64
	for i := range c.rows {
		v = append(v, c.rows[i].rate/d.rows[i].rate)
	}
	return median(v)
}

// perCPU is the work per second of the process's own processor time. Other load
// on the machine changes it less.
func (c *contender) perCPU() float64 {
	return c.middle(func(s sample) float64 { return c.work / s.cpu.Seconds() })
}

func (c *contender) rate() float64 { return c.middle(func(s sample) float64 { return s.rate }) }

func find(all []*contender, name string) *contender {
	for _, c := range all {
		if c.name == name {
			return c
		}
	}
	return nil
}

// same runs contenders and compares their outputs. It ignores lines that begin
// with one of but.
func (b *bench) same(all []*contender, but ...string) error {
	var first string
	var by string
	for _, c := range all {
		path := b.path("same")
		out, err := os.Create(path)
		if err != nil {
			return err
		}
		if _, err = b.measure(c, out); err == nil {
			_, err = out.Seek(0, io.SeekStart)
		}
		if err != nil {
			return err
		}
		hash := sha256.New()
		lines := bufio.NewReaderSize(out, 1<<20)
		for err == nil {
			var line []byte
			line, err = lines.ReadBytes('\n')
			if !slices.ContainsFunc(but, func(s string) bool { return bytes.HasPrefix(line, []byte(s)) }) {
				hash.Write(line)
			}
		}
		out.Close()
		if sum := fmt.Sprintf("%x", hash.Sum(nil)); first == "" {
			first, by = sum, c.name
		} else if sum != first {
			return fmt.Errorf("%s and %s print different things for the same input", by, c.name)
		}
	}
	return os.Remove(b.path("same"))
}

// A server is a process that serves during runs.
type server struct {
	cmd *exec.Cmd
	url string
}

// serve starts a server on the given processors. The server prints its URL.
func (b *bench) serve(cpus string, args ...string) (*server, error) {
	s := &server{cmd: exec.Command(b.tool("timer"), append([]string{"-cpus", cpus, "-exec"}, args...)...)}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	var at struct{ URL string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &at)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("%v did not start: %w", args, err)
	}
	s.url = at.URL
	return s, nil
}

func (s *server) stop() {
	s.cmd.Process.Signal(os.Interrupt)
	s.cmd.Wait()
}

// cpu returns the processor time that the server has used, in steps of 10 ms.
func (s *server) cpu() time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(text), ") ") // after the name
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// env makes the gbatch commands use the server. Each project is new to the
// emulator, and has its own state folder for gbatch-submit.
func (s *server) env(state, project string) []string {
	return []string{"GOOGLE_GEMINI_BASE_URL=" + s.url, "GEMINI_API_KEY=bench@" + project, "XDG_STATE_HOME=" + state, "GOOGLE_API_KEY=",
		"GOOGLE_VERTEX_BASE_URL=" + s.url, "STORAGE_EMULATOR_HOST=" + s.url, "GCE_METADATA_HOST=" + strings.TrimPrefix(s.url, "http://"), "HOME=" + state, "GOOGLE_APPLICATION_CREDENTIALS="}
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// copyFile copies a file and waits for the disk.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	// Data that is written to disk later would disturb another measurement.
	return cmp.Or(err, out.Sync(), out.Close())
}

// settle waits until all data is written to disk.
func settle() { syscall.Sync() }
