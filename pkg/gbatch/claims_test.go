package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/gcs"
	"gbatch/pkg/ledger"
	"gbatch/pkg/record"
)

// A service is one of the two, with a bucket that machines share.
type service struct {
	name   string
	submit func() *Submit
	batch  func(t *testing.T, name string, n, dim int) string
	upload string // the call that uploads an input
}

var services = []service{
	{"gemini", func() *Submit {
		s := newSubmit()
		s.Bucket = "gs://bucket/folder"
		return s
	}, func(_ *testing.T, name string, n, dim int) string { return batch(name, n, dim) }, "upload.data"},
	{"vertex", submitVertex, vertexBatch, "object.data"},
}

// newShared is an emulator with both services.
func newShared(t *testing.T, opts emulator.Options) *google {
	t.Helper()
	g := newVertexGoogle(t, opts)
	t.Setenv("GEMINI_API_KEY", testKey)
	return g
}

// machine makes the present process run on another machine.
func (g *google) machine() (state string) {
	g.t.Helper()
	state = g.t.TempDir()
	g.t.Setenv("XDG_STATE_HOME", state)
	return state
}

// claim returns what the bucket holds of a submission.
func (g *google) claim(in string) (m ledger.Mark) {
	g.t.Helper()
	code, content := g.object("folder/claims/" + nameOf(g.t, in) + ".json")
	if code == 404 {
		return m
	}
	if err := json.Unmarshal([]byte(content), &m); err != nil {
		g.t.Fatal(err)
	}
	return m
}

// phase checks the phase of a claim; "" is that there is none.
func (g *google) phase(in, want string, released bool) {
	g.t.Helper()
	if m := g.claim(in); m.Phase != want || m.Released != released {
		g.t.Errorf("the claim is %+v, want phase %q, released %v", m, want, released)
	}
}

func (g *google) storage() *gcs.Client {
	g.t.Helper()
	c, err := newStorage(time.Second)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// putClaim writes a claim as another machine would.
func (g *google) putClaim(in, content string) {
	g.t.Helper()
	name := gcs.Name{Bucket: "bucket", Object: "folder/claims/" + nameOf(g.t, in) + ".json"}
	if _, err := g.storage().Insert(g.t.Context(), name, gcs.Any, []byte(content), gcs.Content{}); err != nil {
		g.t.Fatal(err)
	}
}

// expire shortens the lease of a claim, so that a test need not wait for its end.
func (g *google) expire(in string) {
	g.t.Helper()
	m := g.claim(in)
	m.Lease = 0.001
	g.putClaim(in, mustLine(m))
}

func (g *google) wait(hold string) {
	g.t.Helper()
	ctx, stop := context.WithTimeout(g.t.Context(), 2*time.Minute)
	defer stop()
	if err := g.WaitHold(ctx, hold); err != nil {
		g.t.Fatal(err)
	}
}

// Machines that submit the same batches at the same time create one job for each, also
// if the list never shows a job.
func TestMachines(t *testing.T) {
	for _, sv := range services {
		for _, n := range []int{2, 10} {
			t.Run(fmt.Sprint(sv.name, n), func(t *testing.T) {
				g := newShared(t, emulator.Options{Faults: []string{"list hide=99"}})
				var in string
				for i := range 3 {
					in += sv.batch(t, fmt.Sprint("b", i), 3, 4)
				}
				cmds, outs := make([]*exec.Cmd, n), make([]*bytes.Buffer, n)
				s := sv.submit()
				s.RetryFor = 2 * time.Minute
				for i := range n {
					cmds[i], outs[i], _ = submitOn(t, t.TempDir(), s, in)
				}
				for i, cmd := range cmds {
					if err := cmd.Wait(); err != nil {
						t.Error(err)
					}
					mine, first := jobsOf(t, outs[i].String()), jobsOf(t, outs[0].String())
					if len(mine) != 3 || len(first) != 3 {
						t.Fatalf("machine %d: %s", i, outs[i])
					}
					for b := range 3 {
						if mine[b].Job != first[b].Job || mine[b].Batch != first[b].Batch || mine[b].Input != first[b].Input {
							t.Errorf("machine %d has %+v, the first one %+v", i, mine[b], first[b])
						}
					}
				}
				g.jobs(3)
			})
		}
	}
}

// The reply to a create is lost while other machines wait. One of them, or the same
// one, settles it.
func TestMachinesLostCreate(t *testing.T) {
	for _, sv := range services {
		for _, fault := range []string{"create nth=1 drop when=after", "create nth=1 status=503 when=after", "create nth=1 drop", "create nth=1 status=429"} {
			t.Run(sv.name+" "+fault, func(t *testing.T) {
				g := newShared(t, emulator.Options{Faults: []string{fault, "list nth=1-9 hide=99"}})
				in := sv.batch(t, "b1", 3, 4)
				s := sv.submit()
				s.Settle, s.RetryFor = time.Second, 2*time.Minute
				var cmds []*exec.Cmd
				for range 4 {
					cmd, _, _ := submitOn(t, t.TempDir(), s, in)
					cmds = append(cmds, cmd)
				}
				for _, cmd := range cmds {
					if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != exit.Unknown {
						t.Error(err)
					}
				}
				g.faults()
				oneJob(t, g.ok(s, in))
				g.jobs(1)
			})
		}
	}
}

// A machine dies in each phase. The same machine continues at once; another one when
// the lease has passed, and not before.
func TestMachineKilled(t *testing.T) {
	for _, sv := range services {
		for _, c := range []struct{ at, phase string }{
			{"object.list", ledger.Upload}, {sv.upload, ledger.Upload}, {"create", ledger.Create}, {"create when=after", ledger.Create},
			{"list nth=2", ledger.Created}, // the look after the create
		} {
			for _, who := range []string{"the same", "another", "too early"} {
				t.Run(sv.name+" "+c.at+" "+who, func(t *testing.T) {
					g := newShared(t, emulator.Options{})
					op, detail, _ := strings.Cut(c.at, " ")
					if !strings.Contains(detail, "nth") {
						detail += " nth=1"
					}
					g.faults(strings.TrimSpace(op + " hold=here " + detail))
					in := sv.batch(t, "b1", 3, 4)
					s := sv.submit()
					s.Lease = time.Hour
					state := t.TempDir()
					cmd, _, _ := submitOn(t, state, s, in)
					g.wait("here")
					cmd.Process.Kill()
					cmd.Wait()
					g.faults()
					g.phase(in, c.phase, false)
					before := g.claim(in)
					if who == "another" {
						g.expire(in)
					}

					s = sv.submit()
					s.Settle, s.RetryFor = 200*time.Millisecond, 20*time.Second
					g.machine()
					if who == "the same" {
						t.Setenv("XDG_STATE_HOME", state)
						s.RetryFor = time.Second // far less than the lease
					}
					if who == "too early" && c.phase != ledger.Created {
						s.RetryFor = 300 * time.Millisecond
						g.fails(s, in, exit.TryLater, fmt.Sprintf("process %d on %s holds gs://bucket/folder/claims/gbatch-b1-", before.PID, before.Host), "for another 1h0m0s", "another process is submitting the batch")
						if m := g.claim(in); m.Nonce != before.Nonce || m.Phase != before.Phase {
							t.Errorf("the claim was changed: %+v", m)
						}
						return
					}
					oneJob(t, g.ok(s, in))
					g.jobs(1)
					g.phase(in, ledger.Created, false)
				})
			}
		}
	}
}

// A create that a dead machine announced is settled for the whole of --settle, also if
// the machine itself takes the claim over at once.
func TestTakeoverSettles(t *testing.T) {
	for _, sv := range services {
		for _, same := range []bool{true, false} {
			g := newShared(t, emulator.Options{Faults: []string{"create nth=1 hold=here when=after"}})
			in := sv.batch(t, "b1", 3, 4)
			s := sv.submit()
			state := t.TempDir()
			cmd, _, _ := submitOn(t, state, s, in)
			g.wait("here")
			cmd.Process.Kill()
			cmd.Wait()
			if !same {
				g.expire(in)
			}
			g.faults("list nth=1-5 hide=99") // the job shows late
			s = sv.submit()
			s.Settle = 8 * time.Second
			if g.machine(); same {
				t.Setenv("XDG_STATE_HOME", state)
			}
			oneJob(t, g.ok(s, in))
			g.jobs(1)
		}
	}
}

// A run that ends with an error says so in its claim: the next machine need not wait.
func TestReleased(t *testing.T) {
	for _, sv := range services {
		for _, c := range []struct {
			fault, left string
			code        int
		}{
			{"create drop when=after", ledger.Create, exit.Unknown},
			{"create drop", ledger.Create, exit.Unknown},
			{sv.upload + " status=503", ledger.Upload, exit.TryLater},
			{"list status=503", "", exit.TryLater},
			{"create status=400", "", exit.Failed},
			{"create status=429", "", exit.Failed}, // larger than the quota
		} {
			g := newShared(t, emulator.Options{Faults: []string{c.fault}})
			if strings.HasPrefix(c.fault, "create drop") {
				g.faults(c.fault, "list hide=99")
			}
			in := sv.batch(t, "b1", 3, 4)
			s := sv.submit()
			s.Lease, s.RetryFor = time.Hour, 50*time.Millisecond
			g.fails(s, in, c.code)
			g.phase(in, c.left, c.left != "")
			g.faults()
			g.machine()
			s.RetryFor = 5 * time.Second
			s.Settle = 100 * time.Millisecond
			oneJob(t, g.ok(s, in))
			g.jobs(1)
			g.phase(in, ledger.Created, false)
		}
	}
	// An interrupt ends a run in an orderly way too.
	g := newShared(t, emulator.Options{Faults: []string{"upload.data hold=here"}})
	in := batch("b1", 2, 4)
	s := services[0].submit()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		g.WaitHold(t.Context(), "here")
		cancel(interrupted{})
	}()
	if _, err := g.runContext(ctx, s, in); !errors.As(err, new(interrupted)) {
		t.Error(err)
	}
	g.phase(in, ledger.Upload, true)
}

// The reply to any write of a claim is lost. The claim is there all the same, and it is
// this process's.
func TestClaimRepliesLost(t *testing.T) {
	for _, sv := range services {
		for _, fault := range []string{"drop when=after", "status=503 when=after", "cut=10", "status=429", "drop"} {
			for nth := 1; nth <= 3; nth++ {
				g := newShared(t, emulator.Options{Faults: []string{fmt.Sprintf("object.insert nth=%d %s", nth, fault)}})
				in := sv.batch(t, "b1", 2, 4)
				oneJob(t, g.ok(sv.submit(), in))
				g.jobs(1)
				g.phase(in, ledger.Created, false)
			}
			g := newShared(t, emulator.Options{Faults: []string{"object.delete nth=1 " + fault, "create status=400"}})
			in := sv.batch(t, "b1", 2, 4)
			g.fails(sv.submit(), in, exit.Failed)
			g.phase(in, "", false)
		}
	}
}

// The outcome of a write is unknown, because its time ended. The next write finds its own
// claim in the bucket, and continues from there; so does the deletion.
func TestClaimWriteUnknown(t *testing.T) {
	for _, forget := range []bool{false, true} {
		g := newShared(t, emulator.Options{})
		in := batch("b1", 2, 4)
		name := nameOf(t, in)
		e, err := g.claimsOf(t.TempDir(), time.Hour).Claim(t.Context(), name, 0)
		if err != nil {
			t.Fatal(err)
		}
		g.faults("object.insert nth=1 hold=here when=after")
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			g.WaitHold(t.Context(), "here")
			cancel()
		}()
		if err := e.Set(ctx, ledger.Mark{Name: name, Phase: ledger.Create}); err == nil {
			t.Error("a write whose reply was lost has succeeded")
		}
		g.phase(in, ledger.Create, false)
		if forget {
			e.Forget()
			e.Close()
			g.phase(in, "", false)
			continue
		}
		if err := e.Set(t.Context(), ledger.Mark{Name: name, Phase: ledger.Created, Job: "batches/x"}); err != nil {
			t.Error(err)
		}
		e.Close()
		g.phase(in, ledger.Created, false)
	}
}

// A claim that cannot be read stands for a create.
func TestDamagedClaim(t *testing.T) {
	for _, content := range []string{"", "{", "null", `{"phase":"later"}`, `{"lease_seconds":"x"}`} {
		g := newShared(t, emulator.Options{})
		in := batch("b1", 2, 4)
		g.putClaim(in, content)
		s := services[0].submit()
		s.RetryFor = 100 * time.Millisecond
		g.fails(s, in, exit.TryLater, "an unknown machine", "for another 5m0s")
		s.DryRun = true
		if out := g.ok(s, in); !strings.Contains(out, `"action":"wait","reason":"another process is submitting the batch"`) {
			t.Error(out)
		}
		g.jobs(0)
		if _, now := g.object("folder/claims/" + nameOf(t, in) + ".json"); now != content {
			t.Errorf("changed to %q", now)
		}
	}
}

// age makes Google's clock differ from ours by skew, and claims as old as ago more.
func (g *google) age(skew, ago time.Duration) {
	g.serveVertex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply := httptest.NewRecorder()
		g.ServeHTTP(reply, r)
		for k, v := range reply.Header() {
			w.Header()[k] = v
		}
		now := time.Now().UTC().Add(skew)
		w.Header().Set("Date", now.Format(http.TimeFormat))
		body := reply.Body.Bytes()
		var doc map[string]any
		if strings.Contains(r.URL.Path, "/claims/") && json.Unmarshal(body, &doc) == nil && doc["updated"] != nil {
			updated, _ := time.Parse(time.RFC3339Nano, doc["updated"].(string))
			doc["updated"] = updated.Add(skew - ago).Format(time.RFC3339Nano)
			body, _ = json.Marshal(doc)
			w.Header().Del("Content-Length")
		}
		w.WriteHeader(reply.Code)
		w.Write(body)
	}))
}

// The age of a claim is measured by Google's clock alone.
func TestClockOff(t *testing.T) {
	for _, skew := range []time.Duration{0, 5 * time.Hour, -5 * time.Hour} {
		for _, c := range []struct {
			ago  time.Duration
			mark string
			held bool
		}{
			{4 * time.Minute, `"phase":"create"`, true},
			{4 * time.Minute, `"phase":"upload"`, true},
			{6 * time.Minute, `"phase":"upload"`, false},
			{6 * time.Minute, `"phase":"create","time":"2099-01-01T00:00:00Z"`, false},
			{4 * time.Minute, `"phase":"upload","time":"1999-01-01T00:00:00Z"`, true},
			{6 * time.Minute, `"phase":"upload","lease_seconds":600`, true}, // its own lease counts
			{20 * time.Second, `"phase":"upload","lease_seconds":10`, false},
			{-time.Minute, `"phase":"upload"`, true},
		} {
			g := newShared(t, emulator.Options{})
			in := batch("b1", 2, 4)
			g.putClaim(in, `{"host":"far","pid":7,"nonce":"a-b",`+c.mark+`}`)
			g.age(skew, c.ago)
			s := services[0].submit()
			s.RetryFor = 100 * time.Millisecond
			if c.held {
				g.fails(s, in, exit.TryLater, "process 7 on far holds")
				g.jobs(0)
				continue
			}
			s.RetryFor = time.Second
			g.ok(s, in)
			g.jobs(1)
		}
	}
}

// A process whose claim was taken over creates no job.
func TestLostLease(t *testing.T) {
	const theirs = `{"phase":"upload","host":"far","pid":7,"nonce":"a-b"}`
	for _, sv := range services {
		g := newShared(t, emulator.Options{Faults: []string{sv.upload + " nth=1 hold=here"}})
		in := sv.batch(t, "b1", 2, 4)
		done := make(chan error, 1)
		go func() {
			var out bytes.Buffer
			done <- sv.submit().Run(context.Background(), strings.NewReader(in), &out)
		}()
		g.wait("here")
		g.putClaim(in, theirs)
		g.Release("here")
		if err := <-done; exit.Code(err) != exit.TryLater || !strings.Contains(err.Error(), "is not the claim of this process any more") {
			t.Errorf("%s: %v", sv.name, err)
		}
		g.jobs(0)
		if m := g.claim(in); m.Nonce != "a-b" || m.Released {
			t.Errorf("their claim is %+v", m)
		}
		// The same, and the claim was deleted.
		g.deleteClaim(nameOf(t, in))
		g.faults(sv.upload + " nth=1 hold=here")
		in = sv.batch(t, "b2", 2, 4)
		go func() {
			var out bytes.Buffer
			done <- sv.submit().Run(context.Background(), strings.NewReader(in), &out)
		}()
		g.wait("here")
		g.deleteClaim(nameOf(t, in))
		g.Release("here")
		if err := <-done; exit.Code(err) != exit.TryLater {
			t.Errorf("%s: %v", sv.name, err)
		}
		g.jobs(0)
	}
}

// stalled is an entry whose write takes as long as a create may take.
type stalled struct{ ledger.Peeked }

func (stalled) Set(ctx context.Context, m ledger.Mark) error {
	if m.Phase == ledger.Create {
		<-ctx.Done()
	}
	return nil
}

// If the time of a create has passed when it is announced, it is not sent.
func TestStalled(t *testing.T) {
	for _, sv := range services {
		g := newShared(t, emulator.Options{})
		s := sv.submit()
		s.Lease = 20 * time.Millisecond
		at, err := s.service()
		if err != nil {
			t.Fatal(err)
		}
		p := cutAll(t, s, sv.batch(t, "b1", 2, 4))[0]
		defer p.close()
		if _, err := (&submission{Submit: s, at: at}).create(t.Context(), p, stalled{}, "files/x", 0); exit.Code(err) != exit.TryLater {
			t.Errorf("%v", err)
		}
		if n := len(g.books().Operations["create"]); n > 0 {
			t.Error("a create was sent")
		}
	}
}

// A receipt is a receipt, also if its job is created while the claim is taken: the run
// fails to write it in the bucket, but the job is printed.
func TestReceiptNotWritten(t *testing.T) {
	g := newShared(t, emulator.Options{Faults: []string{"create nth=1 hold=here"}})
	in := batch("b1", 2, 4)
	out, done := new(bytes.Buffer), make(chan error, 1)
	go func() { done <- services[0].submit().Run(context.Background(), strings.NewReader(in), out) }()
	g.wait("here")
	g.putClaim(in, `{"phase":"create","host":"far","pid":7,"nonce":"a-b"}`)
	g.Release("here")
	if err := <-done; err != nil {
		t.Error(err)
	}
	job := oneJob(t, out.String())
	g.phase(in, ledger.Create, false)
	if !strings.Contains(g.log.String(), "the receipt of a job was not written") {
		t.Error("nothing is said")
	}
	files, err := ledger.Look()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := files.Read(nameOf(t, in)); err != nil || m.Job != job.Job {
		t.Errorf("the local receipt is %+v, %v", m, err)
	}
	g.jobs(1)
}

// A living process keeps its claim for longer than its lease.
func TestRenewed(t *testing.T) {
	for _, sv := range services {
		g := newShared(t, emulator.Options{Faults: []string{sv.upload + " nth=1 hold=here", "object.insert nth=3 status=503", "object.insert nth=5 drop when=after"}})
		in := sv.batch(t, "b1", 2, 4)
		s := sv.submit()
		s.Lease = 4 * time.Second
		cmd, out, _ := submitOn(t, t.TempDir(), s, in)
		g.wait("here")
		g.machine()
		early := sv.submit()
		early.RetryFor = 6 * time.Second
		g.fails(early, in, exit.TryLater, "holds gs://")
		g.Release("here")
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		if again := oneJob(t, g.ok(early, in)); again.Job != oneJob(t, out.String()).Job {
			t.Errorf("another job: %+v", again)
		}
		g.jobs(1)
		writes := g.books().Operations["object.insert"]["200"]
		if oneJob(t, g.ok(early, in)); g.books().Operations["object.insert"]["200"] != writes {
			t.Error("the same receipt was written again")
		}
	}
}

// claimsOf opens the shared ledger of a machine.
func (g *google) claimsOf(state string, lease time.Duration) *claims {
	g.t.Helper()
	g.t.Setenv("XDG_STATE_HOME", state)
	l, err := openLedger("gs://bucket/folder", lease, time.Second, false)
	if err != nil {
		g.t.Fatal(err)
	}
	return l.(*claims)
}

// Of many processes that find the claim of a dead machine, one takes it.
func TestTakeoverRace(t *testing.T) {
	g := newShared(t, emulator.Options{})
	in := batch("b1", 2, 4)
	name := nameOf(t, in)
	for _, phase := range []string{"", ledger.Upload, ledger.Create} {
		if phase != "" {
			g.putClaim(in, `{"phase":"`+phase+`","host":"far","pid":7,"nonce":"a-b","lease_seconds":0.001}`)
		}
		const n = 8
		entries, errs := make([]ledger.Entry, n), make([]error, n)
		var ledgers [n]*claims
		for i := range n {
			ledgers[i] = g.claimsOf(t.TempDir(), time.Hour)
		}
		for { // until the lease has passed
			if _, err := ledgers[0].Peek(t.Context(), name); err == nil {
				break
			} else if !errors.Is(err, ledger.ErrHeld) {
				t.Fatal(err)
			}
		}
		g.faults("object.insert nth=1-8 hold=together")
		done := make(chan int, n)
		for i := range n {
			go func() {
				entries[i], errs[i] = ledgers[i].Claim(context.Background(), name, 1500*time.Millisecond)
				done <- i
			}()
		}
		for held := ""; !strings.Contains(held, `"together": 8`) && !strings.Contains(held, `"together":8`); {
			r := httptest.NewRecorder()
			g.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/emulator/holds", nil))
			held = r.Body.String()
		}
		g.Release("together")
		for range n {
			<-done
		}
		won := 0
		for i := range n {
			if entries[i] == nil && exit.Code(errs[i]) != exit.TryLater {
				t.Errorf("machine %d: %v", i, errs[i])
			}
			if entries[i] == nil {
				continue
			}
			won++
			if m := entries[i].Mark(); m.Phase != phase {
				t.Errorf("%+v", m)
			}
			if _, err := ledgers[(i+1)%n].Peek(t.Context(), name); !errors.Is(err, ledger.ErrHeld) {
				t.Errorf("a look at it: %v", err)
			}
			entries[i].Close()
		}
		for i, l := range ledgers { // what they have not begun leaves no local entry
			if names := l.files.Names(); len(names) > 0 {
				t.Errorf("machine %d has %v", i, names)
			}
		}
		if won != 1 {
			t.Errorf("%d processes have taken the claim", won)
		}
		g.phase(in, phase, phase != "")
	}
}

// A state folder was copied to another machine, with the note of a submission that goes
// on at the first one. Only on the same host is its process known to be dead.
func TestCopiedState(t *testing.T) {
	host, _ := os.Hostname()
	for _, c := range []struct {
		host, nonce string
		mine        bool
	}{{host, "id-x", true}, {"far", "id-x", false}, {host, "idx-x", false}, {host, "", false}, {host, "other-x", false}} {
		g := newShared(t, emulator.Options{})
		in := batch("b1", 2, 4)
		g.note(ledger.Mark{Name: nameOf(t, in), Phase: ledger.Upload, Nonce: "id"})
		g.putClaim(in, mustLine(ledger.Mark{Phase: ledger.Upload, Host: c.host, Nonce: c.nonce}))
		s := services[0].submit()
		s.RetryFor = 100 * time.Millisecond
		if _, err := g.run(s, in); (err == nil) != c.mine || !c.mine && exit.Code(err) != exit.TryLater {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Others are faster twice: one takes the claim, and then gives it up. Nothing was begun,
// and nothing is left.
func TestOthersFaster(t *testing.T) {
	g := newShared(t, emulator.Options{})
	in := batch("b1", 2, 4)
	inserts := 0
	g.serveVertex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/upload/") && r.URL.Query().Get("ifGenerationMatch") != "" {
			switch inserts++; inserts {
			case 1:
				g.putClaim(in, `{"phase":"upload","nonce":"a-b","released":true}`)
			case 2:
				g.deleteClaim(nameOf(t, in))
			}
		}
		g.ServeHTTP(w, r)
	}))
	l := g.claimsOf(t.TempDir(), time.Hour)
	e, err := l.Claim(t.Context(), nameOf(t, in), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if m := e.Mark(); m.Phase != "" || inserts != 3 {
		t.Errorf("%+v after %d inserts", m, inserts)
	}
	e.Close()
	if names := l.files.Names(); len(names) > 0 {
		t.Errorf("left %v", names)
	}
	g.phase(in, "", false)
}

// A receipt that several machines know is not held by any of them. If one must change
// it, it wins only if no other was faster.
func TestReceiptRace(t *testing.T) {
	g := newShared(t, emulator.Options{})
	in := batch("b1", 2, 4)
	name := nameOf(t, in)
	g.putClaim(in, `{"phase":"created","job":"batches/x","nonce":"a-b"}`)
	a, errA := g.claimsOf(t.TempDir(), time.Hour).Claim(t.Context(), name, 0)
	b, errB := g.claimsOf(t.TempDir(), time.Hour).Claim(t.Context(), name, 0)
	if errA != nil || errB != nil || a.Mark().Job != "batches/x" || b.Mark().Job != "batches/x" {
		t.Fatal(errA, errB)
	}
	receipt := ledger.Mark{Name: name, Phase: ledger.Created, Job: "batches/x"}
	upload := ledger.Mark{Name: name, Phase: ledger.Upload}
	if err := b.Set(t.Context(), receipt); err != nil {
		t.Error(err)
	}
	if err := a.Set(t.Context(), upload); err != nil {
		t.Error(err)
	}
	if err := b.Set(t.Context(), upload); exit.Code(err) != exit.TryLater {
		t.Errorf("%v", err)
	}
	if err := b.Set(t.Context(), ledger.Mark{Name: name, Phase: ledger.Created, Job: "batches/y"}); exit.Code(err) != exit.TryLater {
		t.Errorf("%v", err)
	}
	b.Close()
	g.phase(in, ledger.Upload, false)
	a.Forget()
	a.Close()
	g.phase(in, "", false)
}

// The two ledgers of one machine say different things. What has come farther counts.
func TestLedgersDisagree(t *testing.T) {
	for _, c := range []struct {
		here, there string // "job" is the receipt of a job that exists
		creates     int
		settles     bool
	}{
		{"job", "", 0, false}, {"job", ledger.Upload, 0, false}, {"job", ledger.Create, 0, false},
		{"", "job", 0, false}, {ledger.Upload, "job", 0, false}, {ledger.Create, "job", 0, false},
		{ledger.Create, "", 1, true}, {ledger.Create, ledger.Upload, 1, true},
		{ledger.Upload, ledger.Create, 1, true}, {"", ledger.Create, 1, true},
		{ledger.Upload, "", 1, false}, {"", ledger.Upload, 1, false},
	} {
		t.Run(c.here+" and "+c.there, func(t *testing.T) {
			g := newShared(t, emulator.Options{})
			in := batch("b1", 2, 4)
			name := nameOf(t, in)
			made := 0
			var job record.Job
			if c.here == "job" || c.there == "job" {
				job = oneJob(t, g.ok(newSubmit(), in))
				forgetReceipts(t, g)
				made = 1
			}
			mark := func(phase string) ledger.Mark {
				m := ledger.Mark{Name: name, Batch: "b1", SHA256: name[len(name)-16:], Phase: phase}
				if phase == "job" {
					m.Phase, m.Job, m.Input = ledger.Created, job.Job, job.Input
				}
				return m
			}
			if c.here != "" {
				g.note(mark(c.here))
			}
			if c.there != "" {
				m := mark(c.there)
				m.Released, m.Nonce = true, "a-b"
				g.putClaim(in, mustLine(m))
			}
			g.faults("list hide=99")
			s := services[0].submit()
			s.Settle = time.Second
			lists := g.books().Operations["list"]["200"]
			got := oneJob(t, g.ok(s, in))
			if job.Job != "" && got.Job != job.Job {
				t.Errorf("another job: %+v", got)
			}
			if n := g.books().Operations["list"]["200"] - lists; (n > 3) != c.settles {
				t.Errorf("%d looks", n)
			}
			g.jobs(made + c.creates)
			if m := g.claim(in); m.Phase != ledger.Created || m.Job != got.Job {
				t.Errorf("the claim is %+v", m)
			}
			files, err := ledger.Look()
			if err != nil {
				t.Fatal(err)
			}
			if m, err := files.Read(name); err != nil || m.Phase != ledger.Created || m.Job != got.Job {
				t.Errorf("the local receipt is %+v, %v", m, err)
			}
		})
	}
	// Two receipts: the one that all machines see.
	g := newShared(t, emulator.Options{Faults: []string{"list hide=99"}})
	in := batch("b1", 2, 4)
	first := oneJob(t, g.ok(services[0].submit(), in))
	g.note(ledger.Mark{Name: nameOf(t, in), Phase: ledger.Created, Job: "batches/other"})
	if again := oneJob(t, g.ok(services[0].submit(), in)); again.Job != first.Job {
		t.Errorf("%+v", again)
	}
	if !strings.Contains(g.log.String(), "noted different jobs for one batch") {
		t.Error("nothing is said")
	}
}

// The same lines under another batch's name are recognised by the claims of other
// machines, if the list does not show their job.
func TestOtherClaims(t *testing.T) {
	for _, sv := range services {
		g := newShared(t, emulator.Options{Faults: []string{"list hide=99"}, Polls: 99})
		in := sv.batch(t, "b1", 2, 4)
		first := oneJob(t, g.ok(sv.submit(), in))
		g.machine()
		in = strings.Replace(in, `"batch":"b1"`, `"batch":"b2"`, 1)
		if again := oneJob(t, g.ok(sv.submit(), in)); again.Job != first.Job || again.Batch != "b2" {
			t.Errorf("%+v", again)
		}
		g.jobs(1)
		// The ledger cannot be read: nothing is submitted.
		for _, fault := range []string{"object.list", "object.read"} {
			g.faults(fault+" status=503", "list hide=99")
			s := sv.submit()
			s.RetryFor = 50 * time.Millisecond
			g.fails(s, strings.Replace(in, `"batch":"b2"`, `"batch":"b3"`, 1), exit.TryLater, "503")
		}
		g.jobs(1)
	}
}

// poll asks for a job: a cancel at Vertex AI takes effect then.
func (g *google) poll(s *Submit, jobs ...string) {
	g.t.Helper()
	at, err := s.service()
	for _, job := range jobs {
		if err == nil {
			_, err = at.status(g.t.Context(), job)
		}
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// A batch that another machine has submitted to one service is not paid for at the other.
func TestClaimOfTheOtherService(t *testing.T) {
	for i, sv := range services {
		g := newShared(t, emulator.Options{Polls: 99})
		in := vertexBatch(t, "b1", 2, 4)
		first := oneJob(t, g.ok(sv.submit(), in))
		g.machine()
		other := services[1-i].submit()
		if again := oneJob(t, g.ok(other, in)); again.Job != first.Job {
			t.Errorf("%+v", again)
		}
		g.jobs(1)
		in = vertexBatch(t, "b2", 2, 4)
		g.faults("create drop", "list hide=99")
		g.fails(sv.submit(), in, exit.Unknown)
		g.faults()
		g.machine()
		g.fails(other, in, exit.Unknown, "with the --backend that it was submitted with")
		g.machine()
		g.ok(sv.submit(), in)
		g.jobs(2)
	}
}

// The session of an upload that this machine began says nothing of a create at the other
// service that another machine began.
func TestSessionAndForeignCreate(t *testing.T) {
	g := newShared(t, emulator.Options{})
	in := vertexBatch(t, "b1", 2, 4)
	name := nameOf(t, in)
	g.note(ledger.Mark{Name: name, Phase: ledger.Upload, Input: "gs://bucket/folder/in/" + name + ".jsonl", Session: "s"})
	g.putClaim(in, mustLine(ledger.Mark{Name: name, Phase: ledger.Create, Input: "files/x", Nonce: "a-b", Released: true}))
	g.fails(submitVertex(), in, exit.Unknown, "with the --backend that it was submitted with")
	g.jobs(0)
	if m := g.claim(in); m.Phase != ledger.Create || m.Input != "files/x" || m.Session != "" {
		t.Errorf("%+v", m)
	}
}

// twin creates a second job for the batch, as another machine would.
func (g *google) twin(s *Submit, in string) string {
	g.t.Helper()
	at, err := s.service()
	if err != nil {
		g.t.Fatal(err)
	}
	p := cutAll(g.t, s, in)[0]
	defer p.close()
	input, err := at.upload(g.t.Context(), p, ledger.Peeked{}, false)
	if err != nil {
		g.t.Fatal(err)
	}
	op, err := at.create(g.t.Context(), p, input)
	if err != nil {
		g.t.Fatal(err)
	}
	return op.name
}

// Another machine, which the claim did not keep out, creates a job for the same batch
// at the same time. The younger job is cancelled while it is queued.
func TestTwinCancelled(t *testing.T) {
	for _, sv := range services {
		for _, c := range []struct {
			hold    string
			older   bool // theirs
			fault   string
			cancels int64
		}{
			{"create hold=here nth=1", true, "", 1},
			{"create hold=here nth=1 when=after", false, "", 1},
			{"create hold=here nth=1", true, "get state=BATCH_STATE_RUNNING", 0},
			{"create hold=here nth=1 when=after", false, "get state=BATCH_STATE_RUNNING", 0},
			{"create hold=here nth=1", true, "cancel status=400", 1},
		} {
			t.Run(fmt.Sprint(sv.name, " ", c), func(t *testing.T) {
				g := newShared(t, emulator.Options{Faults: []string{c.hold}, Polls: 99})
				if sv.name == "vertex" {
					c.fault = strings.Replace(c.fault, "BATCH_", "JOB_", 1)
				}
				in := sv.batch(t, "b1", 2, 4)
				out, done := new(bytes.Buffer), make(chan error, 1)
				s := sv.submit()
				go func() { done <- s.Run(context.Background(), strings.NewReader(in), out) }()
				g.wait("here")
				theirs := g.twin(sv.submit(), in)
				g.faults(c.fault)
				g.Release("here")
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				ours := oneJob(t, out.String()).Job
				if (ours == theirs) != c.older {
					t.Errorf("printed %s, the other one is %s", ours, theirs)
				}
				if m := g.claim(in); m.Job != ours {
					t.Errorf("the claim is %+v", m)
				}
				b := g.books()
				if n := b.Operations["cancel"]["200"] + b.Operations["cancel"]["400"]; n != c.cancels {
					t.Errorf("%d cancels", n)
				}
				if want := "the younger one was cancelled while it was queued"; strings.Contains(g.log.String(), want) != (c.fault == "") {
					t.Error("the warning is missing or wrong")
				}
				if want := "cancel the other one"; strings.Contains(g.log.String(), want) != (c.fault != "") {
					t.Error("the warning is missing or wrong")
				}
				if c.fault == "" {
					mine := strings.Fields(g.log.String()[strings.Index(g.log.String(), "cancelled="):])[0]
					g.poll(s, theirs, strings.TrimPrefix(mine, "cancelled="))
					b := g.books()
					if b.Jobs["BATCH_STATE_CANCELLED"] != 1 || b.Creates != 2 {
						t.Errorf("%+v", b.Jobs)
					}
					if b.MaxPaid > 1 {
						t.Errorf("%+v", b)
					}
				}
			})
		}
	}
}

// A process loses its claim while its create is on its way. Another process creates a job,
// which the list shows first. The process looks on until it finds its own job too, and
// cancels it.
func TestTwinOfALostClaim(t *testing.T) {
	for i, sv := range slices.Concat(services, services) {
		reply := i >= len(services) // comes, and the list shows neither job at first
		g := newShared(t, emulator.Options{Faults: []string{"create nth=1 hold=here", "create nth=1 drop when=after"}, Polls: 99})
		if reply {
			g.faults("create nth=1 hold=here")
		}
		in := sv.batch(t, "b1", 2, 4)
		out, done := new(bytes.Buffer), make(chan error, 1)
		s := sv.submit()
		s.Settle = time.Second
		go func() { done <- s.Run(context.Background(), strings.NewReader(in), out) }()
		g.wait("here")
		theirs := g.twin(sv.submit(), in)
		g.putClaim(in, mustLine(ledger.Mark{Name: nameOf(t, in), Phase: ledger.Created, Job: theirs, Nonce: "a-b"}))
		g.faults("list nth=1 hide=1")
		if reply {
			g.faults("list nth=1 hide=2")
		}
		g.Release("here")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if job := oneJob(t, out.String()); job.Job != theirs {
			t.Errorf("printed %s, the other one is %s", job.Job, theirs)
		}
		if b := g.books(); b.Creates != 2 || b.Operations["cancel"]["200"] != 1 {
			t.Errorf("%d creates, %v cancels", b.Creates, b.Operations["cancel"])
		}
	}
}

// A look-up cancels a younger job too, but not in a dry run, and not without the shared
// ledger.
func TestTwinFound(t *testing.T) {
	for _, sv := range services {
		g := newShared(t, emulator.Options{Polls: 99})
		in := sv.batch(t, "b1", 2, 4)
		older := g.twin(sv.submit(), in)
		younger := g.twin(sv.submit(), in)
		dry := sv.submit()
		dry.DryRun = true
		g.ok(dry, in)
		if sv.name == "gemini" {
			g.ok(newSubmit(), in)
			forgetReceipts(t, g)
		}
		if n := len(g.books().Operations["cancel"]); n > 0 {
			t.Error("a job was cancelled")
		}
		next := sv.batch(t, "b2", 1, 4)
		if jobs := jobsOf(t, g.ok(sv.submit(), in+next)); jobs[0].Job != older {
			t.Errorf("%+v", jobs)
		}
		g.poll(sv.submit(), younger)
		if b := g.books(); b.Jobs["BATCH_STATE_CANCELLED"] != 1 || b.Operations["cancel"]["200"] != 1 {
			t.Errorf("%+v", b)
		}
	}
}

// --dry-run reads both ledgers and changes nothing.
func TestDryRunOfClaims(t *testing.T) {
	for _, sv := range services {
		g := newShared(t, emulator.Options{Faults: []string{sv.upload + " nth=1 hold=here"}, Polls: 99})
		in := sv.batch(t, "b1", 2, 4)
		dry := sv.submit()
		dry.DryRun = true
		say := func(want string) {
			t.Helper()
			g.machine()
			before := g.books().Operations
			if out := g.ok(dry, in); !strings.Contains(out, `"action":"`+want) {
				t.Errorf("%s, want %s", out, want)
			}
			after := g.books().Operations
			for _, op := range []string{"object.insert", "object.delete", "create", "upload.start", "object.start"} {
				if fmt.Sprint(before[op]) != fmt.Sprint(after[op]) {
					t.Errorf("%s was called", op)
				}
			}
		}
		say("create")
		cmd, out, _ := submitOn(t, t.TempDir(), sv.submit(), in)
		g.wait("here")
		say(`wait","reason":"another process is submitting the batch"`)
		g.Release("here")
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		g.faults("list hide=99")
		say(`adopt","job":"` + oneJob(t, out.String()).Job)
		g.putClaim(in, `{"phase":"create","released":true}`)
		say(`wait","reason":"the outcome of an earlier create is unknown"`)
	}
}

// gbatch-cancel keeps a file that another machine is about to use.
func TestCancelKnowsClaims(t *testing.T) {
	g := newShared(t, emulator.Options{})
	in := batch("b1", 2, 4)
	name := nameOf(t, in)
	file := g.upload(name, payloadOf(in))
	line := `{"file":"` + file + `","display":"` + name + `"}`
	g.putClaim(in, `{"phase":"upload","nonce":"a-b"}`)
	for _, dry := range []bool{true, false} {
		g.fails(&Cancel{Bucket: "gs://bucket/folder", RetryFor: time.Second, DryRun: dry}, line, exit.Partial, "is in use: gbatch-submit is working on its batch")
	}
	g.putClaim(in, `{"phase":"create","nonce":"a-b","released":true}`)
	for _, dry := range []bool{true, false} {
		g.fails(&Cancel{Bucket: "gs://bucket/folder", RetryFor: time.Second, DryRun: dry}, line, exit.Partial, "may be in use: the outcome of a create is unknown")
	}
	g.phase(in, ledger.Create, true)
	g.files(1)
	g.putClaim(in, `{"phase":"upload","nonce":"a-b","released":true}`)
	g.ok(&Cancel{Bucket: "gs://bucket/folder", RetryFor: time.Second}, line)
	g.files(0)
	g.phase(in, ledger.Upload, true)
	line = `{"file":"` + g.upload(name, payloadOf(in)) + `"}`
	g.fails(&Cancel{Bucket: "bucket", RetryFor: time.Second}, line, exit.Usage, "--bucket: ")
}

func TestLeaseFlag(t *testing.T) {
	g := newShared(t, emulator.Options{})
	s := services[0].submit()
	s.Lease = time.Second - 1
	g.fails(s, batch("b1", 1, 4), exit.Usage, "--lease must be at least 1s")
	s.Bucket = "bucket"
	s.Lease = time.Second
	g.fails(s, batch("b1", 1, 4), exit.Usage, "--bucket: ")
	for lease, want := range map[time.Duration]time.Duration{time.Second: 500 * time.Millisecond, 5 * time.Minute: time.Minute, time.Hour: time.Minute} {
		if got := (&submission{Submit: &Submit{Bucket: "gs://b", Lease: lease}}).timeout(); got != want {
			t.Errorf("lease %v: %v", lease, got)
		}
	}
}
