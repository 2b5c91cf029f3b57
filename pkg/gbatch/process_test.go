package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/gcs"
	"gbatch/pkg/ledger"
	"gbatch/pkg/progress"
)

// The test binary is also gbatch-submit, for the tests that kill it, and gbatch-fetch,
// for a test of its memory.
func TestMain(m *testing.M) {
	if os.Getenv("GBATCH_TEST_FETCH") != "" {
		err := newFetch().Run(context.Background(), os.Stdin, os.Stdout)
		status, _ := os.ReadFile("/proc/self/status")
		_, peak, _ := strings.Cut(string(status), "VmHWM:")
		fmt.Fprintf(os.Stderr, "VmHWM: %s", peak)
		os.Exit(exit.Code(err))
	}
	if flags := os.Getenv("GBATCH_TEST_SUBMIT"); flags != "" {
		s := newSubmit()
		err := json.Unmarshal([]byte(flags), s)
		if err == nil {
			err = s.Run(context.Background(), os.Stdin, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
		}
		os.Exit(exit.Code(err))
	}
	os.Exit(m.Run())
}

func submitProcess(t *testing.T, s *Submit, in string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd, out, _ := submitOn(t, os.Getenv("XDG_STATE_HOME"), s, in)
	return cmd, out
}

// submitOn starts gbatch-submit on the machine that has a state folder.
func submitOn(t *testing.T, state string, s *Submit, in string) (cmd *exec.Cmd, out, log *bytes.Buffer) {
	t.Helper()
	flags := map[string]any{"Backend": s.Backend, "Bucket": s.Bucket, "Lease": s.Lease, "Settle": s.Settle, "RetryFor": s.RetryFor}
	cmd, out, log = exec.Command(os.Args[0]), new(bytes.Buffer), new(bytes.Buffer)
	cmd.Env = append(os.Environ(), "GBATCH_TEST_SUBMIT="+mustLine(flags), "XDG_STATE_HOME="+state)
	cmd.Stdin = strings.NewReader(in)
	cmd.Stdout, cmd.Stderr = out, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s printed %s and logged:\n%s", state, out, log)
		}
	})
	return cmd, out, log
}

// A process is killed at any call and started again: there is one job, one file,
// and nothing is left behind.
func TestKilled(t *testing.T) {
	for at, phase := range map[string]string{
		"list": "", "list when=after": "",
		"upload.start": ledger.Upload, "upload.start when=after": ledger.Upload,
		"upload.data": ledger.Upload, "upload.data when=after": ledger.Upload,
		"create": ledger.Create, "create when=after": ledger.Create,
	} {
		t.Run(at, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			op, when, _ := strings.Cut(at, " ")
			g.faults(strings.TrimSpace(op + " nth=1 hold=here " + when))
			in := batch("b1", 5, 4)
			cmd, out := submitProcess(t, newSubmit(), in)
			if err := g.WaitHold(t.Context(), "here"); err != nil {
				t.Fatal(err)
			}
			cmd.Process.Kill()
			cmd.Wait()
			data, err := os.ReadFile(filepath.Join(g.state, nameOf(t, in)+".json"))
			if err != nil || phase == "" != (len(data) == 0) || !strings.Contains(string(data), phase) {
				t.Errorf("the intent is %s (%v), want phase %q", data, err, phase)
			}
			g.faults()
			submit := newSubmit()
			submit.Settle = 200 * time.Millisecond
			g.ok(submit, in)
			g.jobs(1)
			g.files(1)
			if out.Len() > 0 {
				t.Errorf("printed %s", out)
			}
		})
	}
}

// Two processes at the same time create one job.
func TestTwoProcesses(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	g.faults("create nth=1 hold=sent")
	in := batch("b1", 5, 4)
	a, outA := submitProcess(t, newSubmit(), in)
	b, outB := submitProcess(t, newSubmit(), in)
	if err := g.WaitHold(t.Context(), "sent"); err != nil {
		t.Fatal(err)
	}
	g.Release("sent")
	if err := a.Wait(); err != nil {
		t.Error(err)
	}
	if err := b.Wait(); err != nil {
		t.Error(err)
	}
	if x, y := oneJob(t, outA.String()), oneJob(t, outB.String()); x.Job != y.Job {
		t.Errorf("%s and %s", x.Job, y.Job)
	}
	g.jobs(1)
}

// A process is killed while it uploads an input to Cloud Storage. The next one
// sends what is missing, or begins again if it cannot.
func TestVertexUploadKilled(t *testing.T) {
	lines := vertexBatch(t, "b1", 50, 4)
	in := strings.ReplaceAll(lines, " of b1", " of b1 "+strings.Repeat("and more ", 4000))
	const stored = 1 << 20 // of about 1.8 MB
	for _, c := range []struct {
		name     string
		hold     string // where the first process is killed
		between  func(g *google)
		flags    func(s *Submit)
		sessions int64 // of both processes
		sends    func(size int64) int64
	}{
		{"continues", "object.data nth=2 hold=here", nil, nil, 1, func(size int64) int64 { return size - stored }},
		{"is complete", "object.data nth=3 hold=here when=after", nil, nil, 1, func(int64) int64 { return 0 }},
		{"the session has expired", "object.data nth=2 hold=here", func(g *google) { g.faults("object.data nth=1 status=410") }, nil, 2, func(size int64) int64 { return size }},
		{"the session is unknown", "object.data nth=2 hold=here", func(g *google) { g.faults("object.data nth=1 status=404") }, nil, 2, func(size int64) int64 { return size }},
		{"another file", "object.data nth=2 hold=here", nil, func(s *Submit) { s.Canary = 1 }, 2, func(size int64) int64 { return size + size/50 }},
		{"another folder", "object.data nth=2 hold=here", nil, func(s *Submit) { s.Bucket = "gs://bucket/other" }, 2, func(size int64) int64 { return size }},
		{"another process has stored it", "object.data nth=2 hold=here", func(g *google) {
			g.deleteClaim(nameOf(g.t, in))
			g.t.Setenv("XDG_STATE_HOME", g.t.TempDir())
			g.faults("create status=503")
			g.fails(submitVertex(), in, exit.Unknown)
			g.faults()
			g.t.Setenv("XDG_STATE_HOME", filepath.Dir(g.state))
		}, nil, 2, func(size int64) int64 { return size - stored }},
		{"it was stored and deleted", "object.data nth=3 hold=here when=after", func(g *google) {
			v, err := newVertex(time.Second)
			if err == nil {
				err = v.storage.Delete(g.t.Context(), gcs.Name{Bucket: "bucket", Object: "folder/in/" + nameOf(g.t, in) + ".jsonl"}, gcs.Any)
			}
			if err != nil {
				g.t.Fatal(err)
			}
		}, nil, 2, func(size int64) int64 { return size }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newVertexGoogle(t, emulator.Options{})
			sent := new(progress.Count)
			g.serveVertex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					r.Body = counted{r.Body, sent}
				}
				g.ServeHTTP(w, r)
			}))
			g.faults(fmt.Sprintf("object.data nth=1 take=%d", stored), c.hold)
			cmd, out := submitProcess(t, submitVertex(), in)
			if err := g.WaitHold(t.Context(), "here"); err != nil {
				t.Fatal(err)
			}
			cmd.Process.Kill()
			cmd.Wait()
			intent := filepath.Join(g.state, nameOf(t, in)+".json")
			info, err := os.Stat(intent)
			data, rerr := os.ReadFile(intent)
			if err != nil || rerr != nil || info.Mode().Perm() != 0o600 || !strings.Contains(string(data), "upload_id=") || out.Len() > 0 {
				t.Errorf("%v, %v: %s; printed %s", err, rerr, data, out)
			}
			g.faults()
			if c.between != nil {
				c.between(g)
			}
			before := sent.Done()
			s := submitVertex()
			s.Settle = time.Millisecond
			if c.flags != nil {
				c.flags(s)
			}
			job := oneJob(t, g.ok(s, in))
			g.jobs(1)
			_, content := g.object(strings.TrimPrefix(job.Input, "gs://bucket/"))
			_, requests, _ := strings.Cut(strings.ReplaceAll(in, `"claimed":true,`, ""), "\n")
			if s.Canary == 0 && content != requests {
				t.Error("the input has other lines")
			}
			if want := c.sends(int64(len(requests))); sent.Done()-before < want || sent.Done()-before > want+1000 {
				t.Errorf("the second process sent %d bytes, want %d", sent.Done()-before, want)
			}
			if n := g.books().Operations["object.start"]["200"]; n != c.sessions {
				t.Errorf("%d sessions, want %d", n, c.sessions)
			}
			if data, err := os.ReadFile(intent); err != nil || strings.Contains(string(data), "upload_id") {
				t.Errorf("the receipt is %s, %v", data, err)
			}
			if _, claim := g.object("folder/claims/" + nameOf(t, in) + ".json"); strings.Contains(claim, "upload_id") {
				t.Errorf("what all machines can read has the URL of a session: %s", claim)
			}
			if strings.Contains(g.log.String(), "upload_id=") {
				t.Error("the log has the URL of a session")
			}
		})
	}
}
