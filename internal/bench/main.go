// Bench compares the commands with other programs for the same work, on data
// that it makes from a seed, and writes BENCHMARKS.md and the plots in docs/.
//
//	make bench                  the whole of it: about 35 minutes, 15 GB of disk
//	go run -C internal/bench . -quick -out /tmp/bench
//
// It expects the commands on PATH; make bench sets PATH. It uses jq, node, curl
// and perf if it finds them.
//
// Each figure is that of one process, which reads a file from the page cache and
// writes to /dev/null. Its time and its peak memory are those that the kernel
// counts. Programs that are compared run in turn, in another order each round,
// and ratios are computed within a round, because machines are noisy.
//
// The benchmark is a separate module, so that its dependencies are not in the
// product's go.mod.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// These are the sizes of the data, for a complete run and for -quick.
type sizes struct {
	rounds   int
	fetch    int   // result lines of 768 values; a quarter as many lines of 3072 values
	toJSONL  int   // chunks of 1.5 KB
	pending  int   // chunks of 1 KB
	apply    int   // vectors of 768
	submit   int   // requests of 1.5 KB
	ranges   int64 // bytes of the largest result in Cloud Storage
	memory   int   // the largest result for the memory of fetch, as a multiple of its results
	versions int   // how many times each command is started
	users    []int // chunks of users' own tables
	idle     int   // chunks of a table with nothing to do
	capped   int   // chunks of a claim of all or nothing
	index    int   // chunks of a table with an index
	large    int   // vectors of a large table of users'
	line     []int
}

var (
	whole = sizes{rounds: 5, fetch: 20_000, toJSONL: 200_000, pending: 200_000, apply: 50_000, submit: 200_000, ranges: 10e9, memory: 10, versions: 50, users: []int{20_000, 200_000}, idle: 1_000_000, capped: 600_000, index: 300_000, large: 1_000_000, line: []int{10_000, 100_000, 1_000_000}}
	quick = sizes{rounds: 2, fetch: 2_000, toJSONL: 20_000, pending: 20_000, apply: 10_000, submit: 20_000, ranges: 500e6, memory: 5, versions: 10, users: []int{2_000}, idle: 50_000, capped: 50_000, index: 20_000, large: 20_000, line: []int{10_000, 20_000}}
)

type bench struct {
	sizes
	root  string // root of the repository
	dir   string // folder of the data; removed at the end
	tools string // folder of the programs that are not commands of the suite
	seed  uint64
	one   string // the processor for runs on one core
	two   string // the processors for runs on two cores
	other string // the processors for a server during a run on one core

	report  report
	figures map[string]float64 // the figures for the goals
}

// sections are in the order of the report. title is the title of the first part.
var sections = []struct {
	name  string
	run   func(*bench) error
	title string
}{
	{"scanner", (*bench).scanner, "The scanner of number arrays alone"},
	{"fetch", (*bench).fetch, "gbatch-fetch: f32_768"},
	{"ranges", (*bench).ranges, "gbatch-fetch: ranges against one stream"},
	{"to-jsonl", (*bench).toJSONL, "to-jsonl: ascii"},
	{"pending", (*bench).pending, "chunks-pending"},
	{"submit", (*bench).submit, "gbatch-submit"},
	{"apply", (*bench).apply, "vectors-apply"},
	{"users", (*bench).users, "chunks-pending and vectors-apply: sizes and columns"},
	{"peer", (*bench).peer, "The whole pipe: processor time"},
	{"line", (*bench).line, "The whole pipe"},
	{"start", (*bench).start, "Start-up"},
	{"profiles", (*bench).profiles, "Where the time goes"},
}

func main() {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	short := flag.Bool("quick", false, "small data and few rounds, for trying: about a minute")
	only := flag.String("only", strings.Join(names, ","), "run these sections only, and keep the other parts of BENCHMARKS.md")
	out := flag.String("out", "../..", "folder for BENCHMARKS.md and docs/")
	tmp := flag.String("tmp", "", "folder for the data (default $TMPDIR)")
	seed := flag.Uint64("seed", 1, "seed of the data")
	rounds := flag.Int("rounds", 0, "rounds of each comparison")
	flag.Parse()
	b := &bench{sizes: whole, seed: *seed, figures: map[string]float64{}}
	if *short {
		b.sizes = quick
	}
	if *rounds > 0 {
		b.rounds = *rounds
	}
	if err := b.run(*tmp, *out, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

func (b *bench) run(tmp, out string, only []string) (err error) {
	begun := time.Now()
	if b.root, err = filepath.Abs("../.."); err != nil {
		return err
	}
	for _, name := range []string{"chunks-add", "chunks-pending", "to-jsonl", "gbatch-submit", "gbatch-wait", "gbatch-fetch", "vectors-apply", "gemini-emulator"} {
		if !has(name) {
			return fmt.Errorf("%s is not on PATH: run make bench", name)
		}
	}
	if b.dir, err = os.MkdirTemp(tmp, "gbatch-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stopped
		os.RemoveAll(b.dir)
		os.Exit(130)
	}()
	b.tools = filepath.Join(b.dir, "tools")
	build := exec.Command("go", "build", "-o", b.tools+"/", "./timer", "./rival", "./ours", "./duck")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	if err := b.processors(); err != nil {
		return err
	}
	for _, s := range sections {
		if !slices.Contains(only, s.name) {
			continue
		}
		say("%s, after %v", s.name, time.Since(begun).Round(time.Second))
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return b.write(out, time.Since(begun), len(only) < len(sections))
}

// processors selects the last two of the processors that this process may use.
func (b *bench) processors() error {
	var cpus []string
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("this program reads /proc, so it runs on Linux only: %w", err)
	}
	_, list, _ := strings.Cut(string(status), "Cpus_allowed_list:\t")
	list, _, _ = strings.Cut(list, "\n")
	for part := range strings.SplitSeq(list, ",") {
		low, high := 0, 0
		if n, _ := fmt.Sscanf(part, "%d-%d", &low, &high); n == 1 {
			high = low
		}
		for cpu := low; cpu <= high; cpu++ {
			cpus = append(cpus, fmt.Sprint(cpu))
		}
	}
	n := len(cpus)
	if n < 2 {
		return fmt.Errorf("two processors are needed, there are %d", n)
	}
	b.one, b.two, b.other = cpus[n-1], strings.Join(cpus[n-2:], ","), strings.Join(cpus[:n-1], ",")
	return nil
}

// path returns the path of a data file.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// tool returns the path of a program that was built for the run.
func (b *bench) tool(name string) string { return filepath.Join(b.tools, name) }

// room reports whether the disk of the data has so many free bytes.
func (b *bench) room(need int64) bool {
	var fs syscall.Statfs_t
	return syscall.Statfs(b.dir, &fs) == nil && int64(fs.Bavail)*fs.Bsize > need
}

func has(command string) bool {
	_, err := exec.LookPath(command)
	return err == nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
