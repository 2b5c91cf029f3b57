package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/store"
)

// A boundary is a moment between two steps of a batch.
type boundary struct {
	name  string
	about string // in the table
	kill  func(w *world) error
}

// boundaries are in the order in which a batch reaches them.
var boundaries = []boundary{
	{"claiming", "claiming", (*world).killInClaim},
	{"claimed", "claimed", func(w *world) error { return w.killWhenPrinted(commands("chunks-pending kb.duckdb")) }},
	{"claimed-held", "claimed", func(w *world) error { return w.killWhenHeld("list", submitter) }},
	{"upload-begun", "upload begun", func(w *world) error { return w.killWhenHeld("upload.start when=after", submitter) }},
	{"upload-sent", "upload begun", func(w *world) error { return w.killWhenHeld("upload.data", submitter) }},
	{"uploaded", "uploaded", func(w *world) error { return w.killWhenHeld("upload.data when=after", submitter) }},
	{"intent-written", "intent written", (*world).killAtIntent},
	{"create-sent", "create sent", func(w *world) error { return w.killWhenHeld("create", submitter) }},
	{"create-sent-late", "create sent, done later", (*world).killAndCreate},
	{"create-done", "create done", func(w *world) error { return w.killWhenHeld("create when=after", submitter) }},
	{"create-done-unlisted", "create done", func(w *world) error {
		return errors.Join(w.killWhenHeld("create when=after", submitter), w.runUnlisted(3))
	}},
	{"create-answered", "create answered", (*world).killWhenAnswered},
	{"create-answered-unlisted", "create answered", func(w *world) error { return errors.Join(w.killWhenAnswered(), w.runUnlisted(1000)) }},
	{"job-printed", "job printed", func(w *world) error { return w.killWhenPrinted(submit) }},
	{"job-noted", "job noted", func(w *world) error { w.apart = true; return w.killWhenPrinted(flush) }},
	{"waiting", "waiting", func(w *world) error { return w.killWhenHeld("get", waiter) }},
	{"job-ended", "waiting", func(w *world) error { return w.killWhenHeld("get nth=3 when=after", waiter) }},
	{"half-downloaded", "half downloaded", (*world).killInDownload},
	{"half-printed", "half downloaded", (*world).killInLargeDownload},
	{"downloaded", "downloaded", func(w *world) error { return w.killWhenHeld("file.delete", fetcher) }},
	{"input-deleted", "input deleted", func(w *world) error { return w.killWhenHeld("file.delete when=after", fetcher) }},
	{"half-applied", "half applied", (*world).killBetweenTransactions},
	{"applying", "half applied", (*world).killInTransaction},
	{"committed", "committed", func(w *world) error { return w.killWhenPrinted(attended) }},
}

// boundaryKills returns several scenarios for each boundary, as many as times says.
func boundaryKills(times int) (list []scenario) {
	for i := range times {
		for _, b := range boundaries {
			list = append(list, scenario{name: fmt.Sprintf("b/%s/%d", b.name, i), options: emulator.Options{Polls: 1}, do: func(w *world) error {
				// More than one batch.
				if err := w.add(9, 6); err != nil {
					return err
				}
				if err := b.kill(w); err != nil {
					return err
				}
				w.reached[b.about]++
				return w.finish()
			}})
		}
	}
	return list
}

// killWhenHeld kills the attended line, or one process of it, when a call is
// held: the first or the second that a fault's words are about.
func (w *world) killWhenHeld(words string, process int) error {
	op, rest, _ := strings.Cut(words, " ")
	if !strings.Contains(rest, "nth=") {
		rest = fmt.Sprintf("nth=%d %s", 1+w.rand.IntN(2), rest)
	}
	if err := w.faults(op + " " + rest + " hold=here"); err != nil {
		return err
	}
	l, err := w.start(attended, nil, nil)
	if err != nil {
		return err
	}
	if err := w.hold(l, "here"); err != nil {
		return err
	}
	return w.killThen(l, process)
}

// killThen kills a line, or the one process that is at the boundary, and removes
// the faults.
func (w *world) killThen(l *line, process int) error {
	if w.rand.IntN(2) == 0 {
		process = whole
	}
	if err := w.mustKill(l, process); err != nil {
		return err
	}
	return w.faults()
}

// mustKill is kill, and fails if there was nothing left to kill.
var errLate = errors.New("the kill came too late")

func (w *world) mustKill(l *line, place int) error {
	hit, err := w.kill(l, place)
	if err == nil && !hit {
		err = errLate
	}
	return err
}

// killWhenPrinted kills a line when its last command has printed a line.
func (w *world) killWhenPrinted(argv [][]string) error {
	// Nobody reads the pipe: a large output waits after its first line.
	l, err := w.start(argv, nil, nil)
	if err != nil {
		return err
	}
	select {
	case <-l.first:
	case <-l.ended:
	}
	if l.out.Len() == 0 {
		w.end(l)
		return errors.New("the line printed nothing")
	}
	hit, err := w.kill(l, whole)
	if err == nil && !hit {
		w.logf("the line had ended when it was to be killed")
	}
	return err
}

// killAtIntent kills gbatch-submit when its intent says that it creates, and
// before Google has seen the create.
func (w *world) killAtIntent() error {
	for range 20 {
		before, err := w.Books()
		if err != nil {
			return err
		}
		l, err := w.start(attended, nil, nil)
		if err != nil {
			return err
		}
		if err := w.see(l, "an intent in phase create", func() bool { return w.inPhase("create") }); err != nil {
			return err
		}
		if err := w.killThen(l, submitter); err != nil {
			return err
		}
		after, err := w.Books()
		if err != nil {
			return err
		}
		if creates(after) == creates(before) && w.inPhase("create") {
			return nil
		}
		w.logf("the create was sent already")
		if err := w.add(5, 0); err != nil {
			return err
		}
	}
	return errors.New("the create was always sent before the kill came")
}

// inPhase reports whether an intent is in a phase.
func (w *world) inPhase(phase string) bool {
	for _, m := range w.marks() {
		if m.Phase == phase {
			return true
		}
	}
	return false
}

// killAndCreate kills gbatch-submit when Google has received its create. Google
// creates the job only after the next run has looked for it.
func (w *world) killAndCreate() error {
	w.env["GBATCH_SETTLE"] = "20s"
	var l *line
	err := w.createLate(func(int) (_ *line, err error) {
		l, err = w.start(attended, nil, nil)
		return l, err
	})
	if err == nil {
		_, err = w.end(l)
	}
	return err
}

// createLate starts a line and kills it when Google has received its create. Google
// creates the job only after the next line has looked for it.
func (w *world) createLate(start func(begun int) (*line, error)) error {
	w.late.Store(true)
	if err := w.faults("create nth=1 hold=create"); err != nil {
		return err
	}
	l, err := start(0)
	if err != nil {
		return err
	}
	if err := w.hold(l, "create"); err != nil {
		return err
	}
	if err := w.mustKill(l, whole); err != nil {
		return err
	}
	// The calls that are held stay held when the faults are replaced.
	if err := w.faults("list nth=1 when=after hold=looked"); err != nil {
		return err
	}
	if l, err = start(1); err != nil {
		return err
	}
	if err := w.hold(l, "looked"); err != nil {
		return err
	}
	before, err := w.Books()
	if err != nil {
		return err
	}
	w.Release("create")
	if err := w.see(l, "the create that came late", func() bool {
		b, err := w.Books()
		return err != nil || b.Creates > before.Creates
	}); err != nil {
		return err
	}
	w.Release("looked")
	return nil
}

// killWhenAnswered kills gbatch-submit when it has written the receipt and cannot
// print the job.
func (w *world) killWhenAnswered() error {
	r, full, err := fullPipe()
	if err != nil {
		return err
	}
	defer r.Close()
	l, err := w.start(submit, nil, full)
	full.Close()
	if err != nil {
		return err
	}
	known := len(w.marks())
	if err := w.see(l, "a new intent in phase created", func() bool {
		marks := w.marks()
		return len(marks) > known && !w.inPhase("create") && !w.inPhase("upload") && !w.inPhase("")
	}); err != nil {
		return err
	}
	return w.killThen(l, submitter)
}

// fullPipe is a pipe that is full.
func fullPipe() (r, full *os.File, err error) {
	var fd [2]int
	if err := syscall.Pipe2(fd[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	if err := syscall.SetNonblock(fd[1], true); err != nil {
		return nil, nil, err
	}
	for buf := make([]byte, 4096); len(buf) > 0; {
		if _, err := syscall.Write(fd[1], buf); err == syscall.EAGAIN {
			buf = buf[:len(buf)/2]
		} else if err != nil {
			return nil, nil, err
		}
	}
	if err := syscall.SetNonblock(fd[1], false); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd[0]), "r"), os.NewFile(uintptr(fd[1]), "full"), nil
}

// runUnlisted runs the line while Google's list of jobs does not show the
// newest ones for so many looks.
func (w *world) runUnlisted(looks int) error {
	w.env["GBATCH_SETTLE"] = "20s"
	if err := w.faults(fmt.Sprintf("list nth=1-%d hide=9", looks)); err != nil {
		return err
	}
	_, code, err := w.run(attended, nil)
	if err == nil && code != 0 {
		err = fmt.Errorf("while jobs were not listed the line ended with %d: %s", code, w.stderr())
	}
	return err
}

// killInDownload kills gbatch-fetch in the middle of a result. The inputs must
// still exist.
func (w *world) killInDownload() error {
	if err := w.faults(fmt.Sprintf("download nth=%d hold=here at=%d", 1+w.rand.IntN(2), 1+w.rand.IntN(300))); err != nil {
		return err
	}
	l, err := w.start(attended, nil, nil)
	if err != nil {
		return err
	}
	if err := w.hold(l, "here"); err != nil {
		return err
	}
	inputs, err := w.inputs()
	if err != nil {
		return err
	}
	if len(inputs) == 0 {
		return errors.New("the input was deleted before the result was read")
	}
	return w.killThen(l, fetcher)
}

// killInLargeDownload kills gbatch-fetch when it has printed a part of a large
// result. vectors-apply comes to the end of its input.
func (w *world) killInLargeDownload() error {
	w.env["GBATCH_MAX_REQUESTS"] = fmt.Sprint(large)
	if err := w.add(large-100, 0); err != nil {
		return err
	}
	if err := w.faults(fmt.Sprintf("download hold=here at=%d", 1_000_000+w.rand.IntN(300_000))); err != nil {
		return err
	}
	l, err := w.start(attended[:5], nil, nil)
	if err != nil {
		return err
	}
	if err := w.hold(l, "here"); err != nil {
		return err
	}
	select {
	case <-l.first:
	case <-l.ended:
	}
	if err := w.mustKill(l, fetcher); err != nil {
		return err
	}
	printed := l.out.Bytes()
	printed = printed[:bytes.LastIndexByte(printed, '\n')+1]
	_, code, err := w.run(attended[5:], bytes.NewReader(printed))
	if err == nil && code != 7 {
		w.logf("vectors-apply took a part of a result for the whole")
	}
	return err
}

// results makes one large batch and runs the line up to vectors-apply. It
// returns what vectors-apply is to read.
func (w *world) results() ([]byte, error) {
	w.env["GBATCH_MAX_REQUESTS"], w.env["GBATCH_MAX_TOKENS"] = fmt.Sprint(2*large), "100000000"
	if err := w.add(large, 0); err != nil {
		return nil, err
	}
	out, code, err := w.run(attended[:5], nil)
	if err == nil && code != 0 {
		err = fmt.Errorf("the line ended with %d", code)
	}
	return []byte(out), err
}

// killBetweenTransactions kills vectors-apply when it has applied a part of a
// batch and waits for more.
func (w *world) killBetweenTransactions() error {
	answers, err := w.results()
	if err != nil {
		return err
	}
	r, feed, err := os.Pipe()
	if err != nil {
		return err
	}
	l, err := w.start(attended[5:], r, nil)
	r.Close()
	if err != nil {
		feed.Close()
		return err
	}
	defer feed.Close()
	part := large - 1_900 + w.rand.IntN(1_000)
	fed := make(chan error, 1)
	go func() {
		_, err := feed.Write(bytes.Join(bytes.SplitAfter(answers, []byte("\n"))[:part], nil))
		fed <- err
	}()
	count := 0
	err = w.see(l, "a part of the batch in the database", func() bool {
		count = 0
		w.each("SELECT DISTINCT chunk_id AS id, '' AS text FROM embeddings WHERE batch = (SELECT max(batch) FROM gbatch.jobs)", func(store.Chunk) { count++ })
		time.Sleep(time.Millisecond) // vectors-apply holds the lock
		return count > 0
	})
	if err != nil {
		return err
	}
	if err := <-fed; err != nil {
		return err
	}
	w.logf("%d of %d vectors are applied", count, large)
	if count >= large {
		return errors.New("the whole batch was applied")
	}
	return w.mustKill(l, whole)
}

// killInTransaction kills vectors-apply when it writes to the database.
func (w *world) killInTransaction() error {
	answers, err := w.results()
	if err != nil {
		return err
	}
	return w.killAtChange(attended[5:], answers)
}

// killInClaim kills chunks-pending when it writes to the database.
func (w *world) killInClaim() error {
	w.env["GBATCH_MAX_REQUESTS"] = fmt.Sprint(large)
	if err := w.add(4_000, 6); err != nil {
		return err
	}
	return w.killAtChange(attended[:1], nil)
}

// killAtChange kills a command at one of the first changes of the database's
// files.
func (w *world) killAtChange(argv [][]string, in []byte) error {
	state := func() (s [4]int64) {
		for i, name := range []string{"kb.duckdb", "kb.duckdb.wal"} {
			if info, err := os.Stat(w.file(name)); err == nil {
				s[2*i], s[2*i+1] = info.Size(), info.ModTime().UnixNano()
			}
		}
		return s
	}
	// On a busy machine the command may be faster than this process. Then the
	// database is put back, and the kill is to come earlier.
	path := w.file("kb.duckdb")
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changes := 1 + w.rand.IntN(6)
	for tries := 1; ; tries++ {
		err := w.killAfter(changes, state, argv, in)
		if changes = max(1, changes-1); !errors.Is(err, errLate) || tries == 20 {
			return err
		}
		if err := os.WriteFile(path, before, 0o600); err != nil {
			return err
		}
	}
}

func (w *world) killAfter(changes int, state func() [4]int64, argv [][]string, in []byte) error {
	was := state()
	l, err := w.start(argv, bytes.NewReader(in), nil)
	if err != nil {
		return err
	}
	for range changes {
		if err := w.see(l, "a change of the database", func() bool { return state() != was }); err != nil {
			return err
		}
		was = state()
	}
	return w.mustKill(l, whole)
}
