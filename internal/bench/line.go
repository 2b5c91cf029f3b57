package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gbatch/pkg/record"
)

// text is the number of bytes in a chunk of the whole line.
const text = 800

// stages are the stages of the line, in order.
var stages = []string{"chunks-pending", "to-jsonl", "gbatch-submit", "gbatch-wait", "gbatch-fetch", "vectors-apply"}

// A point is the line at one number of chunks.
type point struct {
	n      int
	stages map[string]sample
	grown  []growth // growth of the cost of vectors-apply
	pipe   time.Duration
	served time.Duration // the emulator's processor time during the run
	memory map[string]int64
}

// A growth is the cost of a vector when the table already has rows.
type growth struct {
	rows   int
	vector time.Duration
}

// alone estimates the time of a stage if the emulator ran on another machine:
// the time without the emulator's processor time, which uses the same two cores,
// but at least the time that two cores need for the stage's own work.
func (s sample) alone() time.Duration { return min(s.wall, max(s.wall-s.server, s.cpu/2)) }

func (b *bench) line() error {
	var points []*point
	for _, n := range b.sizes.line {
		// The space is for chunks, outbox, input files and vectors, and for the
		// results of one slice.
		need := int64(n)*(5*text+3600) + 100_000*14_000
		if !b.room(need) {
			b.report.note("The run with %d chunks is left out: it needs %s of free disk space.", n, bytesText(need))
			continue
		}
		p, err := b.staged(n)
		if err != nil {
			return err
		}
		points = append(points, p)
		// The results of all jobs need more space.
		if need += int64(n) * 9600; b.room(need) {
			if err := b.piped(p); err != nil {
				return err
			}
		} else {
			b.report.note("The run as a pipe with %d chunks is left out: it needs %s of free disk space.", n, bytesText(need))
		}
	}
	b.linePoints(points)
	return nil
}

// setUp creates a database of n chunks, and starts an emulator for it.
func (b *bench) setUp(n int) (db string, add sample, s *server, clean func(), err error) {
	dir := b.path("line")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", add, nil, nil, err
	}
	db = dir + "/kb.duckdb"
	if add, err = b.database(db, n, text); err != nil {
		return "", add, nil, nil, err
	}
	if s, err = b.serve(b.two, "gemini-emulator", "--vectors", "cheap", "--dir", dir+"/emulator"); err != nil {
		return "", add, nil, nil, err
	}
	return db, add, s, func() {
		s.stop()
		os.RemoveAll(dir)
	}, nil
}

// staged runs one stage after the other, with files in between, so that no other
// stage uses the processors. Jobs are waited for, fetched and applied in slices,
// and their results are deleted, so that the disk need not hold all of them.
func (b *bench) staged(n int) (*point, error) {
	say("  %d chunks, stage by stage", n)
	db, add, emulator, clean, err := b.setUp(n)
	if err != nil {
		return nil, err
	}
	defer clean()
	p := &point{n: n, stages: map[string]sample{"chunks-add": add}, memory: map[string]int64{}}
	env := emulator.env(b.path("line"), "p")
	in := ""
	run := func(name string, args ...string) error {
		out := b.path("line/" + name)
		s, err := b.into(out, &contender{name: name, args: append([]string{name}, args...), in: in, env: env, cores: "2", server: emulator})
		if err != nil {
			return err
		}
		if in != "" {
			os.Remove(in)
		}
		in = out
		settle()
		sum := p.stages[name]
		p.stages[name] = sample{wall: sum.wall + s.wall, cpu: sum.cpu + s.cpu, server: sum.server + s.server, rss: max(sum.rss, s.rss)}
		return nil
	}
	if err := run("chunks-pending", claim(db)[1:]...); err != nil {
		return nil, err
	}
	if err := run("to-jsonl"); err != nil {
		return nil, err
	}
	if err := run("gbatch-submit", "-q"); err != nil {
		return nil, err
	}
	jobs, err := os.ReadFile(in)
	if err != nil {
		return nil, err
	}
	lines := bytes.SplitAfter(bytes.TrimSpace(jobs), []byte("\n"))
	// 10,000 chunks, then 90,000, then 100,000 at a time.
	for i, done := 0, 0; i < len(lines); i++ {
		count := 10
		if i == 0 {
			count = 1
		} else if done == 1 {
			count = 9
		}
		slice := lines[done:min(done+count, len(lines))]
		if len(slice) == 0 {
			break
		}
		done += len(slice)
		in = b.path("line/slice")
		if err := os.WriteFile(in, bytes.Join(slice, nil), 0o600); err != nil {
			return nil, err
		}
		if err := run("gbatch-wait", "--interval", "50ms"); err != nil {
			return nil, err
		}
		if err := run("gbatch-fetch"); err != nil {
			return nil, err
		}
		for _, line := range slice {
			if err := prune(filepath.Dir(db), line); err != nil {
				return nil, err
			}
		}
		before := p.stages["vectors-apply"].wall
		if err := run("vectors-apply", db); err != nil {
			return nil, err
		}
		rows := 0
		for _, line := range slice {
			var j record.Job
			if err := json.Unmarshal(line, &j); err != nil {
				return nil, err
			}
			rows += j.Requests
		}
		last := 0
		if len(p.grown) > 0 {
			last = p.grown[len(p.grown)-1].rows
		}
		p.grown = append(p.grown, growth{last + rows, (p.stages["vectors-apply"].wall - before) / time.Duration(rows)})
		say("    %d of %d applied", last+rows, n)
	}
	p.stages["database"] = sample{rss: size(db)}
	return p, nil
}

// prune deletes the results of a job from the emulator's folder. The emulator
// refuses to delete them, like Google.
func prune(dir string, job []byte) error {
	var j record.Job
	if err := json.Unmarshal(job, &j); err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, "emulator", "files", "batch-"+strings.TrimPrefix(j.Job, "batches/")+".data"))
}

// piped runs the line as a pipe.
func (b *bench) piped(p *point) error {
	say("  %d chunks, as a pipe", p.n)
	db, _, emulator, clean, err := b.setUp(p.n)
	if err != nil {
		return err
	}
	defer clean()
	env := emulator.env(b.path("line"), "p")
	args := map[string][]string{"chunks-pending": claim(db)[1:], "gbatch-submit": {"-q"}, "gbatch-wait": {"--interval", "50ms"}, "vectors-apply": {db}}
	out, err := os.Create(b.path("line/out"))
	if err != nil {
		return err
	}
	defer out.Close()
	in, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	begun, served := time.Now(), emulator.cpu()
	var all []*process
	for i, name := range stages {
		c := &contender{name: name, args: append([]string{name}, args[name]...), env: env, cores: "2"}
		next, to := (*os.File)(nil), out
		if i < len(stages)-1 {
			if next, to, err = os.Pipe(); err != nil {
				return err
			}
		}
		process, err := b.begin(c, in, to)
		if err != nil {
			return err
		}
		all = append(all, process)
		in.Close()
		if to != out {
			to.Close()
		}
		in = next
	}
	for _, process := range all {
		s, err := process.end()
		if err != nil {
			return err
		}
		p.memory[process.name] = s.rss
	}
	p.pipe, p.served = time.Since(begun), emulator.cpu()-served
	return nil
}

func (b *bench) linePoints(points []*point) {
	if len(points) == 0 {
		return
	}
	b.report.heading("The whole pipe")
	b.report.note("Against the emulator, which uses the same two cores. The vectors have 768 values and come from a table, the texts have about %d bytes. "+
		"The rows are measured stage by stage, with files between the stages. \"Seconds without it\" are the seconds of the stage less the processor time of the emulator, "+
		"but at least the time that two cores need for the stage's own work. gbatch-wait only waits for the emulator. In the pipe, the stages overlap.", text)
	sum := make([]time.Duration, len(points))
	for i, p := range points {
		t := b.report.table(fmt.Sprintf("The whole pipe: %s chunks", count(p.n)), "", "stage", "seconds", "CPU s", "emulator's CPU s", "seconds without it", "peak MB", "peak MB in the pipe")
		for _, name := range append([]string{"chunks-add"}, stages...) {
			s := p.stages[name]
			without, piped := s.alone(), ""
			if name == "gbatch-wait" {
				without = 0
			}
			if name != "chunks-add" {
				sum[i] += without
			}
			if rss := p.memory[name]; rss > 0 {
				piped = num(float64(rss) / 1e6)
			}
			t.row(name, seconds(s.wall), seconds(s.cpu), seconds(s.server), seconds(without), num(float64(s.rss)/1e6), piped)
		}
		t.row("**all stages**, without chunks-add", "", "", "", "**"+seconds(sum[i])+"**", "", "")
		if p.pipe > 0 {
			t.row("**as a pipe**", "**"+seconds(p.pipe)+"**", "", seconds(p.served), "", "", "")
		}
	}
	last := points[len(points)-1]
	t := b.report.table("vectors-apply: cost as the table grows", fmt.Sprintf("One run of vectors-apply for each part of the pipe with %d chunks. At the end the database has %s.", last.n, bytesText(last.stages["database"].rss)), "rows in the table afterwards", "µs a vector", "vectors/s")
	for _, g := range last.grown {
		t.row(strconv.Itoa(g.rows), num(float64(g.vector.Nanoseconds())/1e3), num(1/g.vector.Seconds()))
	}
	b.linePlots(points, sum)
	// The first slices are short, so that the start of the command counts. Only
	// slices of the same size show whether the cost is constant.
	var cost []float64
	for i, g := range last.grown {
		if i >= 2 || len(last.grown) < 4 {
			cost = append(cost, g.vector.Seconds())
		}
	}
	b.figures["apply.flat"] = cost[len(cost)-1] / cost[0]
	if len(points) < 2 {
		return
	}
	before := points[len(points)-2]
	more := float64(last.n) / float64(before.n)
	pending := func(p *point) sample { return p.stages["chunks-pending"] }
	b.figures["line.flat"] = sum[len(sum)-1].Seconds() / sum[len(sum)-2].Seconds() / more
	b.figures["line.pending.flat"] = pending(last).wall.Seconds() / pending(before).wall.Seconds() / more
	b.figures["line.pending.memory"] = float64(pending(last).rss) / float64(pending(before).rss)
}

// count formats 1000000 as 1,000,000.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return strings.TrimSpace(s)
}
