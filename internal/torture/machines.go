package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"gbatch/pkg/emulator"
)

// Several machines submit the same batches: pods of one job, a second cron line, a
// host that took over. Each has a state folder of its own, and all have one bucket.

const (
	lease  = 2 * time.Second
	settle = 1500 * time.Millisecond
	lag    = 400 * time.Millisecond // until the list shows a job
)

// queued is how often the state of a job is requested until it is not queued any
// more: more often than the machines do, because at Google it is queued for long.
const queued = 25

// lagging makes the list show a job late, but before settle has passed.
var lagging = fmt.Sprintf("list hide=%v", lag)

// A step is a moment of a submission at which its machine stops.
type step struct {
	name, about string
	specs       []string // the call that is held at "here"; none: the first job is printed
	half        bool     // the input is larger than what Cloud Storage receives at first
}

const (
	claims       = "object.insert match=/claims/"
	claimCreate  = `object.insert match='"phase":"create"'`
	claimCreated = `object.insert match='"phase":"created"'`
)

// steps are in the order in which a batch reaches them.
var steps = []step{
	{name: "claiming", about: "claim sent", specs: []string{claims + " nth=1 hold=here"}},
	{name: "claimed", about: "claim inserted", specs: []string{claims + " nth=1 when=after hold=here"}},
	{name: "upload-begun", about: "upload begun", specs: []string{"upload.start nth=1 when=after hold=here"}},
	{name: "half-uploaded", about: "half uploaded", half: true},
	{name: "uploaded", about: "uploaded", specs: []string{"upload.data nth=1 when=after hold=here"}},
	{name: "announcing", about: "claim at create sent", specs: []string{claimCreate + " nth=1 hold=here"}},
	{name: "announced", about: "claim at create", specs: []string{claimCreate + " nth=1 when=after hold=here"}},
	{name: "create-sent", about: "create sent", specs: []string{"create nth=1 hold=here"}},
	{name: "create-done", about: "create done", specs: []string{"create nth=1 when=after hold=here"}},
	{name: "answered", about: "create answered", specs: []string{claimCreated + " nth=1 hold=here"}},
	{name: "noted", about: "claim at created", specs: []string{claimCreated + " nth=1 when=after hold=here"}},
	{name: "printed", about: "job printed"},
}

// What becomes of a machine at a step, while the others submit the same batches.
var fates = []string{
	"killed",  // and starts again
	"lost",    // killed, and starts again without its disk
	"stopped", // stands still for longer than its lease, and continues
	"slow",    // waits for Google until the others have given up or are done
}

// machines are scenarios with several machines, times for each step.
func machines(times int) (list []scenario) {
	add := func(name string, do func(*world) error) {
		for _, backend := range []string{"vertex", "gemini"} {
			list = append(list, scenario{name: "g/" + name + "/" + backend, vertex: backend == "vertex", options: emulator.Options{Polls: queued}, do: func(w *world) error {
				w.share()
				return do(w)
			}})
		}
	}
	for i := range times {
		for _, s := range steps {
			for _, fate := range fates {
				add(fmt.Sprintf("%s/%s/%d", s.name, fate, i), func(w *world) error { return w.stopAt(s, fate) })
			}
		}
		add(fmt.Sprintf("create-sent/late/%d", i), (*world).lateCreate)
		for n := 2; n <= 10; n += 4 {
			add(fmt.Sprintf("crowd/%d/%d", n, i), func(w *world) error { return w.crowd(n, false) })
		}
		add(fmt.Sprintf("copies/%d", i), func(w *world) error { return w.crowd(3, true) })
		add(fmt.Sprintf("chain/%d", i), (*world).chain)
	}
	return list
}

// share gives all machines one ledger.
func (w *world) share() {
	// A machine that has lost its claim may have uploaded a file, which no job uses.
	w.orphans = !w.vertex
	maps.Copy(w.env, w.cloud())
	w.env["GBATCH_SETTLE"] = settle.String()
}

// at runs f with a machine as the one that lines run on.
func (w *world) at(machine int, f func() error) error {
	defer func(home string) { w.home = home }(w.home)
	return errors.Join(w.on(machine), f())
}

// A fleet is machines and what each of them runs: the same batches, or its own copy
// of the database.
type fleet struct {
	*world
	n     int
	argv  [][]string
	lines []*line
}

// deal claims the chunks that are there, and gives each machine the batches as a
// file, or the database.
func (w *world) deal(n int, copies bool) (*fleet, error) {
	batches, err := w.expect(submit[:2], "", 0)
	if err != nil {
		return nil, err
	}
	f := &fleet{world: w, n: n, argv: commands("gbatch-submit batches.ndjson"), lines: make([]*line, n)}
	name, content := "batches.ndjson", []byte(batches)
	if copies {
		f.argv, name = attended, "kb.duckdb"
		if content, err = os.ReadFile(w.file(name)); err != nil {
			return nil, err
		}
	}
	for m := range n {
		if err := w.at(m, func() error { return os.WriteFile(w.file(name), content, 0o600) }); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// start starts machines.
func (f *fleet) start(machines ...int) error {
	for _, m := range machines {
		err := f.at(m, func() (err error) {
			f.lines[m], err = f.world.start(f.argv, nil, nil)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) all() (machines []int) {
	for m := range f.n {
		machines = append(machines, m)
	}
	return machines
}

// end waits for machines and returns the worst of their exit codes.
func (f *fleet) end(machines ...int) (worst int, err error) {
	for _, m := range machines {
		f.logf("machine %d:", m)
		codes, err := f.world.end(f.lines[m])
		if err != nil {
			return worst, err
		}
		worst = max(worst, slices.Max(codes))
	}
	return worst, nil
}

// kill kills what a machine runs, or one process of it. lost removes the disk's
// ledger, as that of a pod.
func (f *fleet) kill(m, place int, lost bool) error {
	return f.at(m, func() error {
		f.logf("machine %d:", m)
		_, err := f.world.kill(f.lines[m], place)
		if err == nil && lost {
			f.logf("machine %d has lost its disk", m)
			err = os.RemoveAll(f.file("state"))
		}
		return err
	})
}

// signal stops or continues what a machine runs.
func (f *fleet) signal(m int, s syscall.Signal) {
	if len(f.lines[m].alive()) > 0 {
		f.logf("machine %d: %v", m, s)
		syscall.Kill(-f.lines[m].group, s)
	}
}

// abandon kills what is left after an error, as a machine that stands still.
func (f *fleet) abandon() {
	for _, l := range f.lines {
		if l != nil {
			l.kill(whole)
		}
	}
}

// finish runs all machines until each is done, and compares what they print and what
// was paid for.
func (f *fleet) finish() error {
	if err := f.faults(lagging); err != nil {
		return err
	}
	f.late.Store(false)
	for tries := 1; ; tries++ {
		if err := f.start(f.all()...); err != nil {
			return err
		}
		worst, err := f.end(f.all()...)
		if err != nil {
			return err
		}
		if worst == 0 {
			break
		}
		if tries == 8 {
			return fmt.Errorf("the machines are not done after %d runs, exit code %d: %s", tries, worst, f.stderr())
		}
	}
	// A job that was cancelled is so only when its state is requested.
	if _, _, err := f.run(commands("gbatch-list | gbatch-wait --once"), nil); err != nil {
		return err
	}
	var bad error
	machines := f.all() // those that have a database
	if len(f.argv) == 1 {
		machines = machines[:1]
		for _, l := range f.lines {
			if printed, first := jobsOf(l.out.Bytes()), jobsOf(f.lines[0].out.Bytes()); string(printed) != string(first) {
				bad = fmt.Errorf("two machines print other jobs: %s and %s", first, printed)
			}
		}
	}
	for _, m := range machines {
		if err := f.at(m, f.world.finish); err != nil {
			bad = errors.Join(bad, fmt.Errorf("machine %d: %w", m, err))
		}
	}
	left, err := f.objects("claims")
	err = errors.Join(bad, err)
	for name, content := range left {
		if !strings.Contains(string(content), `"phase":"created"`) {
			err = errors.Join(err, fmt.Errorf("a claim is left: %s: %s", name, content))
		}
	}
	return err
}

// stopAt lets a machine come to a step, where fate meets it while others submit the
// same batches.
func (w *world) stopAt(s step, fate string) error {
	chunks, specs := 9, s.specs
	if s.half {
		chunks, w.env["GBATCH_MAX_REQUESTS"] = 2500, "5000" // more than 256 KiB
		specs = []string{"upload.data nth=1 hold=here unread"}
		if w.vertex { // it asks how much is stored
			specs = []string{"upload.data nth=1 take=300000", "upload.data nth=2 hold=here"}
		}
	}
	if err := w.add(chunks, 0); err != nil {
		return err
	}
	f, err := w.deal(2+w.rand.IntN(3), false)
	if err != nil {
		return err
	}
	defer f.abandon()
	if err := w.faults(append(slices.Clone(specs), lagging)...); err != nil {
		return err
	}
	// Google does a create that it has received, also if its client is dead.
	w.late.Store(fate == "killed" || fate == "lost")
	if err := f.start(0); err != nil {
		return err
	}
	switch {
	case len(specs) > 0:
		err = w.hold(f.lines[0], "here")
	default:
		select {
		case <-f.lines[0].first:
		case <-f.lines[0].ended:
		}
	}
	if err != nil {
		return err
	}
	w.reached[s.about]++
	early := w.rand.IntN(2) == 0
	switch fate {
	case "killed", "lost":
		early = true
		err = f.kill(0, whole, fate == "lost")
	case "stopped":
		f.signal(0, syscall.SIGSTOP)
	case "slow":
		early = false
	}
	if err != nil {
		return err
	}
	if early {
		w.Release("here")
	}
	others := f.all()[1:]
	if err := f.start(others...); err != nil {
		return err
	}
	if _, err := f.end(others...); err != nil {
		return err
	}
	w.Release("here")
	if fate == "stopped" {
		f.signal(0, syscall.SIGCONT)
	}
	if _, err := f.end(0); err != nil {
		return err
	}
	return f.finish()
}

// lateCreate kills a machine when Google has received its create. Google creates the
// job only after another machine has taken over and has looked for it.
func (w *world) lateCreate() error {
	if err := w.add(9, 0); err != nil {
		return err
	}
	f, err := w.deal(3, false)
	if err != nil {
		return err
	}
	defer f.abandon()
	err = w.createLate(func(begun int) (*line, error) {
		machines := [][]int{{0}, {1, 2}}[begun]
		err := f.start(machines...)
		return f.lines[machines[0]], err
	})
	if err != nil {
		return err
	}
	w.reached["create sent, done later"]++
	if _, err := f.end(1, 2); err != nil {
		return err
	}
	return f.finish()
}

// chain kills ten machines one after the other, each at another step, in any order.
// Half of them begin when the one before is still alive.
func (w *world) chain() error {
	if err := w.add(12, 0); err != nil {
		return err
	}
	f, err := w.deal(10, false)
	if err != nil {
		return err
	}
	defer f.abandon()
	w.late.Store(true)
	order := slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.specs == nil })
	w.rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for m, s := range order[:f.n] {
		if err := w.faults(append(slices.Clone(s.specs), lagging)...); err != nil {
			return err
		}
		if f.lines[m] == nil {
			if err := f.start(m); err != nil {
				return err
			}
		}
		if w.hold(f.lines[m], "here") != nil {
			continue // the steps that are left do not come to this call
		}
		w.reached[s.about]++
		if next := m + 1; next < f.n && w.rand.IntN(2) == 0 {
			if err := f.start(next); err != nil {
				return err
			}
		}
		if err := f.kill(m, whole, w.rand.IntN(2) == 0); err != nil {
			return err
		}
		w.Release("here")
	}
	return f.finish()
}

// crowd lets n machines begin at once. Calls fail and replies are lost, machines are
// killed, stand still and lose their disks at random moments.
func (w *world) crowd(n int, copies bool) error {
	for range 2 {
		if err := w.add(6+w.rand.IntN(12), 0); err != nil {
			return err
		}
		f, err := w.deal(n, copies)
		if err != nil {
			return err
		}
		defer f.abandon()
		specs := []string{lagging}
		for _, s := range []string{
			claims + " status=503", claims + " status=503 when=after", claims + " drop when=after", claims + " status=412", "object.read match=/claims/ status=503",
			"object.get match=/claims/ drop", "create drop when=after", "create status=503", "create cut=20", "list status=503", "upload.data drop when=after",
		} {
			if w.rand.IntN(3) == 0 {
				specs = append(specs, fmt.Sprintf("%s p=0.15 seed=%d", s, w.rand.Uint32()))
			}
		}
		if err := w.faults(specs...); err != nil {
			return err
		}
		if err := f.start(f.all()...); err != nil {
			return err
		}
		still, since := w.rand.IntN(n), time.Now()
		for event := range n + 2 {
			time.Sleep(time.Duration(w.rand.Float64() * float64(400*time.Millisecond)))
			m := w.rand.IntN(n)
			switch {
			case event == n/2: // stands still
				f.signal(still, syscall.SIGSTOP)
				since = time.Now()
			case m == still && event > n/2:
			case len(f.lines[m].alive()) == 0:
				if err := f.start(m); err != nil {
					return err
				}
			default:
				place := whole
				if alive := f.lines[m].alive(); w.rand.IntN(2) == 0 && len(alive) > 0 {
					place = alive[w.rand.IntN(len(alive))]
				}
				if err := f.kill(m, place, w.rand.IntN(3) == 0); err != nil {
					return err
				}
				if err := f.start(m); err != nil {
					return err
				}
			}
		}
		time.Sleep(lease + lease/4 - time.Since(since))
		f.signal(still, syscall.SIGCONT)
		if _, err := f.end(f.all()...); err != nil {
			return err
		}
		if err := f.finish(); err != nil {
			return err
		}
	}
	return nil
}
