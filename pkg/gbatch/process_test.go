package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
)

// The test binary is also gbatch-submit, for the tests that kill it.
func TestMain(m *testing.M) {
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

func submitProcess(t *testing.T, in string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd, out, _ := submitOn(t, os.Getenv("XDG_STATE_HOME"), newSubmit(), in)
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
			cmd, out := submitProcess(t, in)
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
	a, outA := submitProcess(t, in)
	b, outB := submitProcess(t, in)
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
