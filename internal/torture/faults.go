package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"gbatch/pkg/emulator"
	"gbatch/pkg/record"
)

// A faultCase is a fault and what the line must make of it.
type faultCase struct {
	specs []string
	env   map[string]string // for the run with the fault
	// kill -9 once the fault has struck: it makes a call hang.
	kill bool
	// The batches have one request each, so that a result is damaged as a whole.
	single bool
	// The results cannot be used, however often they are fetched. Their batch
	// stays open until it is given up.
	stuck bool
	// The first chunk fails permanently, for this reason. KEY in specs is its key.
	fails string
	times int // runs with the fault; 0 means 1
}

// A call is an operation that the line uses, which of its calls, and a fault at
// another one that brings the line to use it.
type call struct{ op, which, with string }

func (c call) name() string {
	name := c.op
	for word := range strings.FieldsSeq(c.which) {
		_, value, _ := strings.Cut(word, "=")
		name += "." + strings.Trim(value, "/")
	}
	return name
}

var calls = []call{
	{op: "upload.start"}, {op: "upload.data"}, {op: "list"}, {op: "create"}, {op: "get"}, {op: "download"}, {op: "file.delete"},
	{op: "file.list", with: "upload.data drop when=after times=1"},
}

// vertexCalls are those of Vertex AI and Cloud Storage. The second object.data asks
// how much of the first one is stored.
var vertexCalls = []call{
	{op: "object.start"}, {op: "object.data"}, {op: "object.data", which: "nth=2", with: "object.data nth=1 drop"}, {op: "object.get", with: "object.start times=1 status=412"},
	{op: "list"}, {op: "object.list"}, {op: "create"}, {op: "get"}, {op: "object.read", which: "match=/out/"}, {op: "object.delete"}, {op: "metadata"},
	{op: "object.insert"}, {op: "object.read", which: "match=/claims/"},
}

// faultCases are all faults at one call.
func faultCases(at call) (list []faultCase) {
	op := at.op
	add := func(c faultCase, format string, args ...any) {
		c.specs = []string{strings.TrimSpace(op+" "+at.which) + " " + fmt.Sprintf(format, args...)}
		if at.with != "" {
			c.specs = append(c.specs, at.with)
		}
		list = append(list, c)
	}
	reads := op == "download" || op == "object.read"
	for _, status := range []int{400, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504} {
		add(faultCase{}, "times=1 status=%d", status)
		if !reads {
			add(faultCase{}, "times=1 status=%d when=after", status)
		}
	}
	// As long as the line tries.
	short := map[string]string{"GBATCH_RETRY_FOR": "200ms"}
	for _, status := range []int{403, 408, 429, 503} {
		add(faultCase{env: short}, "status=%d", status)
	}
	add(faultCase{}, "times=2 status=429 retry=60ms")
	add(faultCase{}, "times=2 status=503 retry=60ms")
	add(faultCase{env: short}, "status=429 retry=1h")
	add(faultCase{}, "times=1 status=429 retry-after=1")
	add(faultCase{}, "times=1 status=502 body=html")
	add(faultCase{}, "times=1 status=200 body=html")
	add(faultCase{}, "times=1 status=200 body=empty")
	add(faultCase{}, "times=1 status=500 body=empty")
	add(faultCase{}, "times=2 drop")
	add(faultCase{}, "times=1 cut=0")
	add(faultCase{}, "times=1 cut=20")
	add(faultCase{kill: true}, "hang")
	add(faultCase{}, "times=2 delay=30ms")
	add(faultCase{}, "times=1 drip=1us")
	add(faultCase{}, "times=1 header=X-Not-Known:1")
	if reads {
		for _, at := range []int{1, 150, 400} {
			add(faultCase{}, "times=3 cut=%d", at)
			add(faultCase{}, "times=1 short=%d", at)
		}
		return list
	}
	add(faultCase{}, "times=1 drop when=after")
	add(faultCase{}, "times=1 status=200 body=empty when=after")
	add(faultCase{kill: true}, "hang when=after")
	add(faultCase{}, "times=1 set='error={\"code\":13}'")
	add(faultCase{}, "times=1 set=notKnown=[]")
	switch op {
	case "upload.data":
		add(faultCase{}, "times=1 nostatus")
		add(faultCase{}, "times=1 nostatus when=after")
	case "object.data":
		add(faultCase{}, "times=1 take=100")
	case "list":
		add(faultCase{}, "times=2 hide=9")
		add(faultCase{}, "order=oldest")
		add(faultCase{}, "order=shuffled")
		add(faultCase{}, "repeat")
	case "get":
		add(faultCase{}, "times=2 state=BATCH_STATE_PAUSED")
		add(faultCase{}, "times=2 state=BATCH_STATE_NOT_KNOWN_YET")
	}
	return list
}

// vertexJobCases are those that only jobs of Vertex AI have. A job that did not
// succeed has done some of its lines, which are paid for.
var vertexJobCases = []faultCase{
	{specs: []string{`job times=1 state=FAILED code=13 done=2`}},
	{specs: []string{`job times=1 state=EXPIRED code=4 done=3`}},
	{specs: []string{`job times=1 state=CANCELLED code=1 done=1`}},
	{specs: []string{`job times=1 state=PARTIALLY_SUCCEEDED done=4`}},
	{specs: []string{`results keys=KEY error=3 place=status message="a text says why"`}, fails: "a text says why"},
	{specs: []string{`results times=1 first=2 error=13 place=error`}},
	{specs: []string{`results times=1 first=2 error=13 place=file`}},
	{specs: []string{`results times=1 files=3`}},
}

// jobCases are the faults of jobs and of their results.
var jobCases = []faultCase{
	{specs: []string{`job times=1 state=FAILED code=13 message="no machine"`}},
	{specs: []string{`job times=1 state=EXPIRED code=4 message="48 hours"`}},
	{specs: []string{`job times=1 state=CANCELLED code=1`}},
	{specs: []string{`job times=1 state=PARTIALLY_SUCCEEDED`}},
	{specs: []string{`results times=1 first=2 error=13 place=code message="try again"`}},
	{specs: []string{`results times=1 first=2 set=notKnown={}`}},
	{specs: []string{`results times=1 first=2 line=NaN`}},
	{specs: []string{`results times=1 error=8 place=response`}},
	{specs: []string{`results keys=KEY error=3 place=code message="no such language"`}, fails: "no such language"},
	{specs: []string{`results keys=KEY error=13 place=code message="always so"`}, fails: "always so", times: 4},
	{specs: []string{`results times=1 first=1 missing`}, stuck: true, single: true},
	{specs: []string{`results times=1 each=2 duplicate`}},
	{specs: []string{`results times=1 each=2 foreign`}},
	{specs: []string{`results times=1 nokey`}},
	{specs: []string{`results times=1 garbage`}, stuck: true, single: true},
	{specs: []string{`results times=1 swap`}, stuck: true, env: map[string]string{"GBATCH_CANARY": "2"}},
	{specs: []string{`results times=1 half`}, stuck: true, single: true},
	{specs: []string{`results times=1 length=4`}},
	{specs: []string{`results times=1 last=2 length=-1`}},
	{specs: []string{`results times=1 values=nan`}},
	{specs: []string{`results times=1 first=2 values=nan-string`}},
	{specs: []string{`results times=1 values=inf`}},
	{specs: []string{`results times=1 first=2 values=huge`}},
	{specs: []string{`results times=1 first=2 values=null-element`}},
	{specs: []string{`results times=1 first=2 values=empty`}},
	{specs: []string{`results times=1 first=2 values=null`}},
	{specs: []string{`results times=1 first=2 values=absent`}},
}

// lagCases are creates without an answer whose jobs are not listed at once.
var lagCases = func() (list []faultCase) {
	for _, lost := range []string{"drop when=after", "status=500 when=after", "status=504 when=after", "status=408 when=after", "cut=0", "cut=20"} {
		list = append(list, faultCase{
			specs: []string{"create times=1 " + lost, "list nth=2-4 hide=9"},
			env:   map[string]string{"GBATCH_SETTLE": "20s"},
		})
	}
	return list
}()

// casesEach is how many faults one scenario goes through.
const casesEach = 9

// allFaults are scenarios that go through every fault, or through one in each, and
// through all cases of jobs.
func allFaults(each int, calls []call, jobs []faultCase) (list []scenario) {
	group := func(name string, each int, cases []faultCase) {
		if each > 1 {
			var some []faultCase
			for i := range cases {
				if i%each == each/2 {
					some = append(some, cases[i])
				}
			}
			cases = some
		}
		i := 0
		for part := range slices.Chunk(cases, casesEach) {
			list = append(list, scenario{name: fmt.Sprintf("c/%s/%d", name, i), options: emulator.Options{Polls: 1}, do: func(w *world) error { return w.faultsInTurn(name, part) }})
			i++
		}
	}
	for _, c := range calls {
		group(c.name(), each, faultCases(c))
	}
	group("job", each, jobCases)
	group("jobs", 1, jobs)
	group("lag", each, lagCases)
	list = append(list,
		scenario{name: "c/quota", options: emulator.Options{Polls: 1, MaxJobs: 2}, do: func(w *world) error {
			if err := w.add(30, 0); err != nil {
				return err
			}
			return w.finish()
		}})
	for _, fault := range []string{"status=503", "status=404", "drop", "cut=0", "cut=30", "status=200 body=html", "status=200 body=empty"} {
		name := strings.NewReplacer(" ", "-", "=", "-").Replace(fault)
		list = append(list, scenario{name: "c/forgotten/" + name, options: emulator.Options{Polls: 1}, do: func(w *world) error { return w.forget(fault) }})
	}
	for _, words := range []string{"list", "upload.data", "create", "create when=after", "get", "download at=300", "file.delete"} {
		name := strings.NewReplacer(" ", "-", "=", "-").Replace(words)
		list = append(list, scenario{name: "c/restart/" + name, options: emulator.Options{Polls: 1}, do: func(w *world) error { return w.restartAt(words) }})
	}
	return list
}

// faultsInTurn goes through cases, each to a good end.
func (w *world) faultsInTurn(op string, cases []faultCase) error {
	w.orphans = op == "file.delete" || op == "object.delete"
	for _, c := range cases {
		if err := w.faultCase(c); err != nil {
			return fmt.Errorf("after %q: %w", c.specs, err)
		}
	}
	return nil
}

func (w *world) faultCase(c faultCase) error {
	first := len(w.ids)
	if err := w.add(7, 0); err != nil {
		return err
	}
	var specs []string
	for _, s := range c.specs {
		specs = append(specs, strings.ReplaceAll(s, "KEY", w.ids[first]))
	}
	if err := w.faults(specs...); err != nil {
		return err
	}
	usual := maps.Clone(w.env)
	maps.Copy(w.env, c.env)
	if c.single {
		w.env["GBATCH_MAX_REQUESTS"] = "1"
	}
	for range max(c.times, 1) {
		if err := w.runWith(c); err != nil {
			return err
		}
	}
	for _, f := range w.Faults() {
		if f.Fired == 0 {
			return fmt.Errorf("the torture is to blame: %q never struck", f.Fault)
		}
	}
	w.env = usual
	if c.fails != "" {
		w.failing[w.texts[w.ids[first]]] = c.fails
	}
	if c.stuck {
		if err := w.unstick(); err != nil {
			return err
		}
	}
	return w.finish()
}

// runWith runs the line with the faults that are set. The line may fail, but it
// must end.
func (w *world) runWith(c faultCase) error {
	l, err := w.start(attended, nil, nil)
	if err != nil {
		return err
	}
	if !c.kill {
		_, err = w.end(l)
		return err
	}
	err = w.see(l, "a call that hangs", func() bool { return w.Faults()[0].Fired > 0 })
	if err != nil {
		return err
	}
	place := whole
	if alive := l.alive(); w.rand.IntN(2) == 0 && len(alive) > 0 {
		place = alive[0] // it, or what feeds it
		for _, i := range alive {
			if name := l.procs[i].cmd.Args[0]; strings.HasPrefix(name, "gbatch-") {
				place = i
				break
			}
		}
	}
	// What hangs elsewhere must not keep the line alive.
	if place != whole {
		l.kill(place)
		place = whole
	}
	_, err = w.kill(l, place)
	return err
}

// unstick checks that a job whose results cannot be used stays open. It then gives
// the job up as docs/troubleshooting.md describes; gbatch-fetch also deletes its
// input file.
func (w *world) unstick() error {
	if err := w.faults(); err != nil {
		return err
	}
	_, code, err := w.run(attended, nil)
	if err != nil {
		return err
	}
	if code == 0 {
		return errors.Join(errors.New("results that cannot be used were taken for good"), w.finish())
	}
	if _, _, err := w.run(flush, nil); err != nil {
		return err
	}
	noted, _, err := w.run(commands("jobs-pending kb.duckdb"), nil)
	if err != nil {
		return err
	}
	if strings.Count(noted, "\n") != 1 {
		return fmt.Errorf("not just the job whose results cannot be used is open: %q", noted)
	}
	var job record.Job
	if err := json.Unmarshal([]byte(noted), &job); err != nil {
		return err
	}
	job.State, job.Error = record.Expired, &record.Status{Message: "given up"}
	up, err := json.Marshal(job)
	if err != nil {
		return err
	}
	if _, code, err = w.run(collect[2:], bytes.NewReader(up)); err == nil && code != 3 {
		err = fmt.Errorf("the job could not be given up: exit code %d", code)
	}
	return err
}

// forget loses the state of gbatch-submit when jobs are created and not noted,
// and makes the look-up that is left to find them fail at first.
func (w *world) forget(fault string) error {
	if err := w.add(12, 0); err != nil {
		return err
	}
	if _, _, err := w.run(submit, nil); err != nil {
		return err
	}
	if err := os.RemoveAll(w.file("state")); err != nil {
		return err
	}
	w.logf("the state folder is lost")
	if err := w.faults("list times=1 " + fault); err != nil {
		return err
	}
	if _, _, err := w.run(attended, nil); err != nil {
		return err
	}
	return w.finish()
}

// restartAt restarts Google while a call is held.
func (w *world) restartAt(words string) error {
	if err := w.add(12, 0); err != nil {
		return err
	}
	op, rest, _ := strings.Cut(words, " ")
	if err := w.faults(op + " nth=2 hold=here " + rest); err != nil {
		return err
	}
	l, err := w.start(attended, nil, nil)
	if err != nil {
		return err
	}
	if err := w.hold(l, "here"); err != nil {
		return err
	}
	w.faulty, w.orphans = nil, true
	if err := w.restart(); err != nil {
		return err
	}
	if _, err := w.end(l); err != nil {
		return err
	}
	return w.finish()
}
