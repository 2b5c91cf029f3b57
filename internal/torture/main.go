// Torture looks for a way to pay twice, to lose a vector or to put one on the
// wrong text. It runs the commands that are on PATH, as real processes in real
// pipes on real databases, against the emulator over HTTP, and
//
//	a  kills them, or one of them, with kill -9 at random moments
//	b  kills them at every boundary between two steps of a batch
//	c  makes every call of theirs fail in every way the emulator knows
//	d  edits, adds and deletes chunks while their jobs are in flight
//	e  runs two of them at once
//	f  meets an API, a schema and a user that are not as expected
//	g  lets machines submit the same batches, which are killed, stopped and slow
//	h  is a, b and c with jobs of Vertex AI
//
// After each scenario the line is run to its end, and the database and the
// emulator's books are compared with what ought to be there. docs/reliability.md
// says what that is.
//
// With --mutate NAME it builds the commands from a source in which one
// safeguard is missing. It must fail then.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"gbatch/pkg/emulator"
)

// A scenario is a world and what happens in it.
type scenario struct {
	name    string // part/…
	options emulator.Options
	vertex  bool // on Vertex AI
	do      func(*world) error
}

type torture struct {
	seed uint64
	dir  string
	keep bool

	mu     sync.Mutex
	faults map[string]map[string]int // by operation and fault, how often it struck
}

// tally notes that a fault struck.
func (t *torture) tally(spec string, n int) {
	op, words, _ := strings.Cut(spec, " ")
	t.mu.Lock()
	defer t.mu.Unlock()
	if strings.Contains(words, "hold=") || n == 0 {
		return
	}
	if t.faults[op] == nil {
		t.faults[op] = map[string]int{}
	}
	t.faults[op][words] += n
}

var parts = []struct{ name, about string }{
	{"a", "killed at random moments"},
	{"b", "killed at boundaries"},
	{"c", "faults at each call"},
	{"d", "chunks changed in flight"},
	{"e", "two at once"},
	{"f", "other ways to pay twice"},
	{"g", "many machines"},
	{"h", "a, b and c on Vertex AI"},
}

// brief is what --short does.
var brief = []string{
	"a", "b", "c/upload.start", "c/upload.data", "c/list", "c/create", "c/get", "c/download", "c/job",
	"c/forgotten/status-200-body-empty", "c/restart/create-when-after", "d/late", "d/moved", "e/submits", "e/slow", "f",
	"g/create-sent/stopped/0/gemini", "g/announced/killed/0/vertex", "g/create-sent/late/0/vertex", "g/crowd/6/0/vertex",
	"h/b/uploaded", "h/b/create-done-unlisted", "h/b/half-downloaded", "h/c/object.data", "h/c/create",
}

// onVertexAI are scenarios whose jobs are those of Vertex AI.
func onVertexAI(lists ...[]scenario) []scenario {
	list := slices.Concat(lists...)
	for i := range list {
		list[i].name, list[i].vertex = "h/"+list[i].name, true
	}
	return list
}

// among reports whether a scenario has one of the names, or one that begins
// with it.
func (s scenario) among(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(s.name+"/", strings.TrimSuffix(name, "/")+"/") })
}

func main() {
	t := &torture{faults: map[string]map[string]int{}}
	var only, mutation string
	var kills, at int
	var short bool
	flag.Uint64Var(&t.seed, "seed", 1, "what all random choices come from")
	flag.IntVar(&kills, "kills", 320, "kills at random moments, at least")
	flag.StringVar(&only, "only", "", "beginnings of the names of scenarios, with commas between: a,b/uploaded")
	flag.BoolVar(&short, "short", false, "a small part of it")
	flag.BoolVar(&t.keep, "keep", false, "keep the folders of scenarios that fail")
	flag.StringVar(&mutation, "mutate", "", "take away a safeguard: "+strings.Join(slices.Sorted(maps.Keys(mutations)), ", "))
	flag.IntVar(&at, "parallel", 3, "scenarios at a time")
	flag.Parse()

	list := slices.Concat(randomKills(kills), boundaryKills(3), allFaults(1, calls, nil), edits(3), together(4), money(2), machines(1),
		onVertexAI(randomKills(kills/10), boundaryKills(1), allFaults(3, vertexCalls, vertexJobCases)))
	if short {
		list = slices.Concat(randomKills(killsEach), boundaryKills(1), allFaults(25, calls, nil), edits(1), together(1), money(1), machines(1),
			onVertexAI(boundaryKills(1), allFaults(25, vertexCalls, nil)))
		list = slices.DeleteFunc(list, func(s scenario) bool { return !s.among(brief) })
	}
	if only != "" {
		list = slices.DeleteFunc(list, func(s scenario) bool {
			return !slices.ContainsFunc(strings.Split(only, ","), func(name string) bool {
				return s.name == name || strings.HasPrefix(s.name+"/", strings.TrimSuffix(name, "/")+"/")
			})
		})
	}
	if err := t.run(list, mutation, at); err != nil {
		fmt.Fprintln(os.Stderr, "torture: error:", err)
		os.Exit(1)
	}
}

// run runs the scenarios and prints their figures. It fails where one of them
// does.
func (t *torture) run(list []scenario, mutation string, at int) (err error) {
	if t.dir, err = os.MkdirTemp("", "gbatch-torture-"); err != nil {
		return err
	}
	defer func() {
		if !t.keep {
			os.RemoveAll(t.dir)
		}
	}()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-interrupted
		os.RemoveAll(t.dir)
		fmt.Fprintln(os.Stderr, "torture:", s)
		os.Exit(1)
	}()
	if mutation != "" {
		if err := mutate(mutation, filepath.Join(t.dir, "bin")); err != nil {
			return err
		}
	}
	for _, c := range attended {
		if _, err := exec.LookPath(c[0]); err != nil {
			return err
		}
	}
	fmt.Printf("seed %d\n\n", t.seed)
	var total figures
	total.reached = map[string]int{}
	var failures []string
	begun := time.Now()
	header := "\tscenarios\tlines run\tkills\ttexts\tpaid\tedited\ttwice\twrong\tlost\tseconds"
	rows := [][]string{strings.Split(header, "\t")}
	for _, part := range parts {
		mine := slices.DeleteFunc(slices.Clone(list), func(s scenario) bool { return !strings.HasPrefix(s.name, part.name+"/") })
		if len(mine) == 0 {
			continue
		}
		sum := figures{reached: map[string]int{}}
		start := time.Now()
		var mu sync.Mutex
		var all sync.WaitGroup
		slots := make(chan struct{}, at)
		for _, s := range mine {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				f, failure := t.scenario(s, mutation)
				mu.Lock()
				defer mu.Unlock()
				sum.add(f)
				if failure != "" {
					failures = append(failures, s.name)
					fmt.Println(failure)
				}
			})
		}
		all.Wait()
		rows = append(rows, sum.row(part.name+"  "+part.about, time.Since(start)))
		total.add(sum)
	}
	rows = append(rows, total.row("all", time.Since(begun)))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, r := range rows {
		// The first column is text.
		fmt.Fprintf(w, "%-27s\t%s\t\n", r[0], strings.Join(r[1:], "\t"))
	}
	w.Flush()
	if len(total.reached) > 0 {
		fmt.Println("\nboundaries, and how often a kill came there:")
		var names []string
		for _, b := range boundaries {
			names = append(names, b.about)
		}
		for _, s := range steps {
			names = append(names, s.about)
		}
		for _, name := range names {
			if n := total.reached[name]; n > 0 {
				fmt.Printf("  %s %d", name, n)
				delete(total.reached, name)
			}
		}
		fmt.Println()
	}
	if len(t.faults) > 0 {
		fmt.Println("\nfaults by call, how many kinds, and how often they struck:")
		for _, op := range slices.Sorted(maps.Keys(t.faults)) {
			n := 0
			for _, struck := range t.faults[op] {
				n += struck
			}
			fmt.Printf("  %s %d, %d", op, len(t.faults[op]), n)
		}
		fmt.Println()
	}
	if total.undone > 0 {
		fmt.Printf("\ntorn checkpoints that were repaired: %d\n", total.undone)
	}
	if len(failures) > 0 {
		return fmt.Errorf("%d of %d scenarios failed: %s", len(failures), len(list), strings.Join(failures, " "))
	}
	fmt.Printf("\nall %d scenarios came to a good end\n", len(list))
	return nil
}

// figures are the columns of the table.
type figures struct {
	scenarios, lines, kills, texts, paid, stale, twice, wrong, lost, undone int
	reached                                                                 map[string]int
}

func (f *figures) add(g figures) {
	f.scenarios += g.scenarios
	f.lines += g.lines
	f.kills += g.kills
	f.texts += g.texts
	f.paid += g.paid
	f.stale += g.stale
	f.twice += g.twice
	f.wrong += g.wrong
	f.lost += g.lost
	f.undone += g.undone
	for name, n := range g.reached {
		f.reached[name] += n
	}
}

func (f *figures) row(name string, d time.Duration) []string {
	row := []string{name}
	for _, n := range []int{f.scenarios, f.lines, f.kills, f.texts, f.paid, f.stale, f.twice, f.wrong, f.lost} {
		row = append(row, fmt.Sprint(n))
	}
	return append(row, fmt.Sprintf("%.1f", d.Seconds()))
}

// scenario runs one scenario, and says how it failed and how to see it again.
func (t *torture) scenario(s scenario, mutation string) (f figures, failure string) {
	w, err := t.newWorld(s)
	if err != nil {
		return figures{scenarios: 1}, fmt.Sprintf("%s: %v", s.name, err)
	}
	err = errors.Join(s.do(w), w.stop())
	f = figures{scenarios: 1, lines: w.lines, kills: w.kills, texts: w.ready, wrong: w.wrong, lost: w.lost, undone: w.undone, reached: w.reached}
	if w.books != nil {
		f.paid, f.twice = w.books.RequestsPaid, len(w.books.PaidTwice)
		f.stale = max(0, w.books.Texts-w.ready)
	}
	if err == nil {
		os.RemoveAll(w.dir)
		return f, ""
	}
	again := fmt.Sprintf("torture --seed %d --only %s", t.seed, s.name)
	if mutation != "" {
		again += " --mutate " + mutation
	}
	var b strings.Builder
	fmt.Fprintf(&b, "FAILED %s\n", s.name)
	for line := range strings.Lines(err.Error() + "\n") {
		fmt.Fprintf(&b, "    %s", line)
	}
	b.WriteString("  what happened:\n")
	lines := slices.Collect(strings.Lines(w.log.String()))
	for _, line := range lines[max(0, len(lines)-25):] {
		fmt.Fprintf(&b, "    %s", line)
	}
	fmt.Fprintf(&b, "  again: %s\n", again)
	if t.keep {
		fmt.Fprintf(&b, "  its folder: %s\n", w.dir)
	}
	return f, b.String()
}

// seedOf makes a number of a name, so that each scenario has random choices of
// its own, whatever else runs.
func seedOf(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return cmp.Or(h.Sum64(), 1)
}
