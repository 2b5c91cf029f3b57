package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A report is the content of BENCHMARKS.md, in its order.
type report struct {
	parts []fmt.Stringer
	plots []plotted
}

type plotted struct {
	file string
	svg  []byte
}

type paragraph string

func (p paragraph) String() string { return string(p) + "\n\n" }

// reason is the title of the column of reasons.
const reason = "why it is not met"

// A table is a table in Markdown.
type table struct {
	title, text string
	rows        [][]string
}

func (r *report) table(title, text string, head ...string) *table {
	t := &table{title, text, [][]string{head}}
	r.parts = append(r.parts, t)
	return t
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "## %s\n\n", t.title)
	if t.text != "" {
		fmt.Fprintf(&s, "%s\n\n", t.text)
	}
	for i, row := range t.rows {
		fmt.Fprintf(&s, "| %s |\n", strings.Join(row, " | "))
		if i > 0 {
			continue
		}
		for j, head := range row {
			if s.WriteString("|---"); j > 0 && head != "" && head != reason { // other columns hold text
				s.WriteString(":")
			}
		}
		s.WriteString("|\n")
	}
	return s.String() + "\n"
}

func (r *report) heading(s string) { r.parts = append(r.parts, paragraph("## "+s)) }
func (r *report) note(format string, args ...any) {
	r.parts = append(r.parts, paragraph(fmt.Sprintf(format, args...)))
}
func (r *report) listing(title, text string) {
	r.parts = append(r.parts, paragraph("### "+title+"\n\n```\n"+strings.TrimSpace(text)+"\n```"))
}

func (r *report) plot(title, file string, svg []byte) {
	r.plots = append(r.plots, plotted{file, svg})
	r.parts = append(r.parts, paragraph(fmt.Sprintf("![%s](docs/%s)", title, file)))
}

// contest reports the results of a race.
func (b *bench) contest(title, text, unit string, per float64, all []*contender) {
	head := []string{"", "cores", unit, "lowest to highest", "ours is", "seconds", unit + " of CPU", "peak MB"}
	served := false
	for _, c := range all {
		served = served || c.server != nil
	}
	if served {
		head = append(head, "server's CPU s")
	}
	t := b.report.table(title, text, append(head, "")...)
	for _, c := range all {
		ratio := ""
		if base := find(all, c.base); base != nil {
			ratio = fmt.Sprintf("%.2f×", base.times(c))
		}
		low, high := math.Inf(1), 0.0
		for _, s := range c.rows {
			low, high = min(low, s.rate/per), max(high, s.rate/per)
		}
		row := []string{strings.TrimSuffix(strings.TrimSuffix(c.name, " (2)"), " (1)"), c.cores, num(c.rate() / per), num(low) + " to " + num(high), ratio,
			num(c.middle(func(s sample) float64 { return s.wall.Seconds() })), num(c.perCPU() / per),
			num(c.peak() / 1e6)}
		if served {
			cpu := ""
			if c.server != nil {
				cpu = num(c.middle(func(s sample) float64 { return s.server.Seconds() }))
			}
			row = append(row, cpu)
		}
		t.row(append(row, c.note)...)
	}
}

// num formats three digits, or all digits before the point.
func num(x float64) string {
	switch {
	case x == 0 || math.IsNaN(x) || math.IsInf(x, 0):
		return fmt.Sprint(x)
	case x >= 100:
		return count(int(math.Round(x)))
	}
	digits := max(0, 2-int(math.Floor(math.Log10(x))))
	return fmt.Sprintf("%.*f", min(digits, 4), x)
}

func seconds(d time.Duration) string { return num(d.Seconds()) }

func bytesText(n int64) string {
	if n >= 1e9 {
		return num(float64(n)/1e9) + " GB"
	}
	return num(float64(n)/1e6) + " MB"
}

// write writes the files. If only some sections were run, it replaces their parts of
// BENCHMARKS.md.
func (b *bench) write(out string, took time.Duration, only bool) error {
	var s strings.Builder
	s.WriteString("# Benchmarks\n\n")
	s.WriteString("`make bench` (internal/bench) writes this file. One MB is 10⁶ bytes. ")
	fmt.Fprintf(&s, "Rates and memory are medians of %d rounds. The column \"ours is\" says how many times as fast our row is: it is the median of the ratios of the rounds. "+
		"If we have two rows, the one with the same number of cores is compared. Peak memory is that of the process, as the kernel counts it, pages of the program's file included; values below about 4 MB are not exact. All commands are one program, and its pages are in memory once for all processes. So the goals are for the memory of a process's own, without pages of files, which is read at least every 16 ms.\n\n", b.rounds)
	for _, line := range b.machine() {
		fmt.Fprintf(&s, "- %s\n", line)
	}
	fmt.Fprintf(&s, "- seed %d, %s, %v\n\n", b.seed, time.Now().UTC().Format(time.DateOnly), took.Round(time.Second))
	s.WriteString(b.goals().String())
	for _, p := range b.report.parts {
		s.WriteString(p.String())
	}
	docs := filepath.Join(out, "docs")
	if err := os.MkdirAll(docs, 0o755); err != nil {
		return err
	}
	for _, p := range b.report.plots {
		if err := os.WriteFile(filepath.Join(docs, p.file), p.svg, 0o644); err != nil {
			return err
		}
	}
	path := filepath.Join(out, "BENCHMARKS.md")
	text := s.String()
	if old, err := os.ReadFile(path); err == nil && only {
		text = merge(string(old), text, "These parts are from another run than the rest of this file: "+strings.Join(b.machine()[1:2], "")+fmt.Sprintf(", %s, %v, %d rounds at most.", time.Now().UTC().Format(time.DateOnly), took.Round(time.Second), b.rounds))
	}
	say("%s is written, after %v", path, took.Round(time.Second))
	return os.WriteFile(path, []byte(strings.TrimSpace(text)+"\n"), 0o644)
}

func (b *bench) machine() (lines []string) {
	first := func(path, key string) string {
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
		return "unknown"
	}
	command := func(args ...string) string {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = b.root
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	lines = append(lines, fmt.Sprintf("%s, family %s model %s, %d processors, %s of memory, Linux %s", first("/proc/cpuinfo", "model name"), first("/proc/cpuinfo", "cpu family"), first("/proc/cpuinfo", "model"), runtime.NumCPU(), first("/proc/meminfo", "MemTotal"), strings.TrimSpace(string(kernel))))
	commit := command("git", "rev-parse", "--short=12", "HEAD")
	if command("git", "status", "--porcelain", "--untracked-files=no") != "" {
		commit += " with changes"
	}
	lines = append(lines, fmt.Sprintf("commit %s, %s", commit, runtime.Version()))
	var others []string
	if v := command("go", "list", "-C", filepath.Join(b.root, "internal/bench"), "-m", "-f", "{{.Version}}", "github.com/goccy/go-json"); v != "" {
		others = append(others, "goccy/go-json "+v)
	}
	if v := command("go", "list", "-C", filepath.Join(b.root, "internal/bench"), "-m", "-f", "{{.Version}}", "github.com/duckdb/duckdb-go/v2"); v != "" {
		others = append(others, "duckdb-go "+v)
	}
	for _, name := range []string{"node", "jq"} {
		if has(name) {
			others = append(others, name+" "+strings.TrimPrefix(command(name, "--version"), name+"-"))
		}
	}
	return append(lines, strings.Join(others, ", "))
}
