package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/record"
)

const lineHash = "0123456789abcdef"

// notes makes an empty state folder for the test.
func notes(t *testing.T) *ledger.Files {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	l, err := ledger.Open()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// note writes the intent of a batch, and releases its entry.
func (k *kb) note(l *ledger.Files, batch, hash, phase, job string) {
	k.Helper()
	e, err := l.Try(ledger.Name(batch, hash))
	if err == nil {
		err = e.Set(k.Context(), ledger.Mark{Batch: batch, Phase: phase, Job: job, Input: "files/x"})
	}
	if err != nil {
		k.Fatal(err)
	}
	e.Close()
}

func (k *kb) release(force bool, batches ...string) (jobs []record.Job, err error) {
	k.Helper()
	out, err := k.run(&Release{Database: k.Database, Batch: batches, Force: force}, "")
	for line := range strings.Lines(out) {
		var j record.Job
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			k.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	return jobs, err
}

// claims claims n chunks in batches of one. It returns the names of the batches
// and what was printed.
func claims(t *testing.T, n int) (k *kb, batches []string, out string) {
	t.Helper()
	k = open(t, simple, fmt.Sprintf("INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(%d) t(i)", n))
	out = k.must(k.pending(func(p *Pending) { p.MaxRequests = 1 }), "")
	for _, b := range k.batches(out) {
		batches = append(batches, b.Batch)
	}
	if len(batches) != n {
		t.Fatalf("%d batches", len(batches))
	}
	return k, batches, out
}

func (k *kb) states(want string) {
	k.Helper()
	k.expect("SELECT string_agg(coalesce(state, '-') || if(closed_at IS NULL, ' open', ''), ', ' ORDER BY batch) FROM gbatch.jobs", want)
}

const byStatus = "SELECT embedding_status, count(*) FROM chunk_status GROUP BY ALL ORDER BY ALL"

// A batch that was certainly never sent is given back at once. Each kind of
// doubt keeps a batch, unless --force is given.
func TestRelease(t *testing.T) {
	l := notes(t)
	k, b, _ := claims(t, 8)
	k.note(l, b[1], lineHash, ledger.Upload, "")
	k.note(l, b[2], lineHash, ledger.Create, "")
	k.note(l, b[3], lineHash, ledger.Created, "batches/three")
	k.sql("UPDATE gbatch.jobs SET claimed_at = claimed_at - INTERVAL 73 HOUR WHERE batch >= '" + b[4] + "'")
	k.note(l, b[5], lineHash, ledger.Upload, "") // a look-up found no job
	k.must(k.apply(), k.line(record.Job{Job: "batches/six", Batch: b[6], State: record.Running, Model: "gemini-embedding-001", Dim: dim, Requests: 1, Input: "files/six"}))
	k.must(k.apply(), k.vectorLine(b[7], "c7", vec("text 7"))+k.jobLine(b[7], record.Succeeded, 1, 0))
	// The lines of this batch were rendered in two ways: the submission that came
	// farther counts.
	k.note(l, b[2], "f"+lineHash[1:], ledger.Upload, "")
	// A state folder also holds intents of other databases, and other files.
	k.note(l, b[0]+"-1", lineHash, ledger.Create, "")
	if err := os.WriteFile(filepath.Join(os.Getenv("XDG_STATE_HOME"), "gbatch", "x.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	jobs, err := k.release(false)
	if exit.Code(err) != exit.Partial || len(jobs) != 0 {
		t.Errorf("%v, %v", jobs, err)
	}
	for _, say := range []string{b[2] + " (the outcome of its create is unknown)", b[3] + " (it was submitted as batches/three)",
		b[4] + " (it was claimed more than 72 hours ago", "run the whole pipe", "--force", "3 requests, at most $0.0000"} {
		if !strings.Contains(err.Error(), say) {
			t.Errorf("%v does not say %s", err, say)
		}
	}
	k.states("RELEASED, RELEASED, - open, - open, - open, RELEASED, RUNNING open, SUCCEEDED")
	k.expect(byStatus, "PENDING|3\nQUEUED|4\nREADY|1")

	// A batch with a job in the database is given back only if it is named.
	if jobs, err = k.release(false, b[6]); exit.Code(err) != exit.Partial || len(jobs) != 0 || !strings.Contains(err.Error(), "it has the job batches/six") {
		t.Errorf("%v, %v", jobs, err)
	}
	jobs, err = k.release(true)
	if err != nil || len(jobs) != 1 || jobs[0].Job != "batches/three" || jobs[0].Batch != b[3] || jobs[0].State != record.Queued || jobs[0].Input != "files/x" || jobs[0].Requests != 1 {
		t.Errorf("%v, %v", jobs, err)
	}
	k.states("RELEASED, RELEASED, RELEASED, RELEASED, RELEASED, RELEASED, RUNNING open, SUCCEEDED")
	jobs, err = k.release(true, b[6], b[6], b[7])
	if err != nil || len(jobs) != 1 || jobs[0].Job != "batches/six" || jobs[0].State != record.Running || jobs[0].Input != "files/six" {
		t.Errorf("%v, %v", jobs, err)
	}
	k.states("RELEASED, RELEASED, RELEASED, RELEASED, RELEASED, RELEASED, RELEASED, SUCCEEDED")
	k.expect("SELECT job FROM gbatch.jobs WHERE job IS NOT NULL ORDER BY batch", "batches/three\nbatches/six\nbatches/"+b[7])
	k.expect(byStatus, "PENDING|7\nREADY|1")
	if out := k.must(&Jobs{Database: k.Database}, ""); out != "" {
		t.Errorf("a job is pending: %s", out)
	}
	if n := k.embed(); n != 7 {
		t.Errorf("%d requests", n)
	}
	k.right()
	if jobs, err = k.release(false); err != nil || len(jobs) != 0 {
		t.Errorf("%v, %v", jobs, err)
	}
}

// A batch that a gbatch-submit is working on is kept, even with --force. Until
// that gbatch-submit ends, batches that it may submit next are in doubt.
func TestReleaseAtWork(t *testing.T) {
	l := notes(t)
	k, b, _ := claims(t, 3)
	e, err := l.Try(ledger.Name(b[0], lineHash))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.release(false, b[1]); exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), b[1]+" (gbatch-submit is working on another batch") || strings.Contains(err.Error(), b[0]) {
		t.Error(err)
	}
	if _, err := k.release(true, b[0], b[1]); exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), b[0]+" (gbatch-submit is working on it)") || strings.Contains(err.Error(), "--force") {
		t.Error(err)
	}
	k.states("- open, RELEASED, - open")
	// chunks-release holds no entry afterwards.
	e.Close()
	if _, err := k.release(false); err != nil {
		t.Error(err)
	}
	k.states("RELEASED, RELEASED, RELEASED")
	if e, err = l.Try(ledger.Name(b[0], lineHash)); e == nil {
		t.Errorf("the entry is held: %v", err)
	}
	e.Close()
}

func TestReleaseNames(t *testing.T) {
	notes(t)
	k := open(t, simple)
	if _, err := k.release(false); err != nil {
		t.Error(err)
	}
	if _, err := k.release(false, "b1"); exit.Code(err) != exit.Usage {
		t.Error(err)
	}
	k, b, _ := claims(t, 1)
	if _, err := k.release(true, b[0], "b1"); exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), `"b1"`) {
		t.Error(err)
	}
	k.states("- open")
	// A state folder that others can write to is not trusted.
	if err := os.Chmod(filepath.Join(os.Getenv("XDG_STATE_HOME"), "gbatch"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := k.release(true); exit.Code(err) != exit.Failed {
		t.Error(err)
	}
	k.states("- open")
}

// The lines of a batch that was given back are submitted later. What is paid for
// is stored, whatever the order of the events.
func TestReleasedComesBack(t *testing.T) {
	queued := func(k *kb, b string) string {
		return k.line(record.Job{Job: "batches/" + b, Batch: b, State: record.Queued, Model: "gemini-embedding-001", Dim: dim, Requests: 1})
	}
	t.Run("job noted first", func(t *testing.T) {
		notes(t)
		k, b, out := claims(t, 1)
		k.release(false)
		k.must(k.apply(), queued(k, b[0]))
		k.states("QUEUED open")
		k.expect(byStatus, "QUEUED|1")
		if out := k.must(k.pending(), ""); out != "" {
			t.Errorf("the chunk is claimed again: %s", out)
		}
		k.must(k.apply(), k.answers(out))
		k.states("SUCCEEDED")
		k.right()
		k.expect("SELECT count(*) FROM gbatch.items", "0")
	})
	t.Run("with results", func(t *testing.T) {
		notes(t)
		k, _, out := claims(t, 1)
		k.release(false)
		k.must(k.apply(), k.answers(out))
		k.states("SUCCEEDED")
		k.right()
		if n := k.embed(); n != 0 {
			t.Errorf("%d requests are sent again", n)
		}
	})
	t.Run("without the record that closes", func(t *testing.T) {
		notes(t)
		k, _, out := claims(t, 1)
		k.release(false)
		if _, err := k.run(k.apply(), strings.SplitAfter(k.answers(out), "\n")[0]); exit.Code(err) != exit.Malformed {
			t.Error(err)
		}
		k.states("RELEASED")
		k.right()
	})
	t.Run("claimed again", func(t *testing.T) {
		notes(t)
		k, b, out := claims(t, 1)
		k.release(false)
		again := k.must(k.pending(), "")
		k.states("RELEASED, - open")
		k.must(k.apply(), queued(k, b[0]))
		k.must(k.apply(), k.answers(out))
		k.states("SUCCEEDED, - open")
		k.right()
		k.must(k.apply(), k.answers(again))
		k.states("SUCCEEDED, SUCCEEDED")
		k.right()
		k.expect("SELECT count(*) FROM gbatch.items", "0")
	})
	t.Run("its job failed", func(t *testing.T) {
		notes(t)
		k, b, _ := claims(t, 1)
		k.release(false)
		if _, err := k.run(k.apply(), k.jobLine(b[0], record.Failed, 0, 0)); exit.Code(err) != exit.Partial {
			t.Error(err)
		}
		k.states("FAILED")
		k.expect(byStatus, "PENDING|1")
		k.expect("SELECT count(*) FROM gbatch.items", "0")
	})
	t.Run("too late", func(t *testing.T) {
		notes(t)
		k, b, out := claims(t, 1)
		k.release(false)
		k.sql("UPDATE gbatch.jobs SET closed_at = closed_at - INTERVAL 71 HOUR")
		k.must(k.pending(), "")
		k.expect("SELECT count(*) FROM gbatch.items WHERE batch = '"+b[0]+"'", "1")
		k.sql("UPDATE gbatch.jobs SET closed_at = closed_at - INTERVAL 2 HOUR")
		k.must(k.pending(), "")
		k.expect("SELECT count(*) FROM gbatch.items WHERE batch = '"+b[0]+"'", "0")
		if _, err := k.run(k.apply(), k.answers(out)); exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), "1 answers were dropped") {
			t.Error(err)
		}
		k.states("RELEASED, - open")
	})
}
