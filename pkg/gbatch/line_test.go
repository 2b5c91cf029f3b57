package gbatch

import (
	"testing"

	"gbatch/pkg/emulator"
	"gbatch/pkg/record"
)

// submit, wait and fetch in a pipe print each text's vector under its key, and
// leave nothing at Google but the result.
func TestLine(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 2, Tokens: "mixed"})
	in := batch("b1", 25, 8) + batch("b2", 3, 8)
	jobs := g.ok(newSubmit(), in)
	for i, j := range jobsOf(t, jobs) {
		want := record.Job{Job: j.Job, Batch: []string{"b1", "b2"}[i], State: record.Queued, Model: "gemini-embedding-001", Dim: 8,
			Requests: []int{25, 3}[i], Input: j.Input}
		if j != want || j.Input == "" {
			t.Errorf("job %+v, want %+v", j, want)
		}
	}
	g.files(2)
	ended := g.ok(newWait(), jobs)
	for _, j := range jobsOf(t, ended) {
		if j.State != record.Succeeded || j.Succeeded != nil || j.CreatedAt == "" || j.EndedAt == "" {
			t.Errorf("after waiting: %+v", j)
		}
	}
	out := g.ok(newFetch(), ended)
	closed := jobsOf(t, out)
	for _, j := range closed {
		if !j.Whole() || *j.Succeeded != j.Requests || *j.Failed != 0 || *j.Tokens == 0 {
			t.Errorf("after fetching: %+v", j)
		}
	}
	vectors, failed := answersOf(t, out)
	if len(closed) != 2 || len(vectors) != 28 || len(failed) != 0 {
		t.Errorf("%d jobs, %d vectors, %d errors", len(closed), len(vectors), len(failed))
	}
	g.jobs(2)
	g.files(0)
}

func TestEmptyInput(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	if out := g.ok(newSubmit(), "\n") + g.ok(newWait(), "") + g.ok(newFetch(), ""); out != "" {
		t.Errorf("printed %q", out)
	}
	if calls := g.books().Operations; len(calls) != 0 {
		t.Errorf("called google: %v", calls)
	}
}
