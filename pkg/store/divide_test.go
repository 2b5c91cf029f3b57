package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gbatch/pkg/exit"
	"gbatch/pkg/record"
)

// divided describes the parts of a unit: name, answers, lines, last.
func divided(u *unit) string {
	if u == nil {
		return "nil"
	}
	var all []string
	for _, p := range u.parts {
		text := ""
		for _, a := range p.answers {
			if a.part != p {
				text += "!"
			}
			text += fmt.Sprintf(" %s=%v", a.key, a.values)
		}
		all = append(all, fmt.Sprintf("%s%s %d %v", p.batch, text, p.lines, p.last))
	}
	return strings.Join(all, "; ")
}

// A unit takes whole batches, and leaves the one that is being read.
func TestDivide(t *testing.T) {
	d := &divider{ctx: context.Background(), at: new(unit)}
	d.changed.L = &d.mu
	take := func(recs ...record.Answer) {
		t.Helper()
		for _, r := range recs {
			if err := d.take(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	value := func(batch, key string, v float32) record.Answer {
		return record.Answer{Batch: batch, Key: key, Values: []float32{v}}
	}
	job := func(batch string) record.Answer {
		return record.Answer{Batch: batch, Job: &record.Job{Batch: batch}}
	}
	expect := func(u *unit, want string) *unit {
		t.Helper()
		if got := divided(u); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
		return u
	}
	take(value("a", "1", 1), value("a", "2", 2), job("a"), job("b"), value("c", "1", 3))
	u := expect(d.next(new(unit)), "a 1=[1] 2=[2] 2 true; b 0 true")
	take(value("c", "2", 4), value("c", "2", 5), job("c"), value("d", "1", 6))
	u = expect(d.next(u), "c 1=[3] 2=[4] 3 true")

	// A large batch is divided.
	done := make(chan error)
	go func() {
		for i := range transaction + 1 {
			if err := d.take(value("d", fmt.Sprint("k", i), 7)); err != nil {
				done <- err
				return
			}
		}
		done <- d.take(job("d"))
	}()
	u = d.next(u)
	if p := u.parts[0]; len(u.parts) != 1 || p.batch != "d" || len(p.answers) != transaction || p.last || p.lines != transaction {
		t.Errorf("%d parts, %d answers", len(u.parts), len(p.answers))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	u = expect(d.next(u), fmt.Sprintf("d k%d=[7] k%d=[7] %d true", transaction-1, transaction, transaction+2))
	take(value("e", "1", 8))
	d.run(strings.NewReader(""))
	u = expect(d.next(u), "e 1=[8] 1 true")
	expect(d.next(u), "nil")
}

// together applies all batches of the input at once, as far as possible.
func (k *kb) together(in string) (*applier, []*part) {
	k.Helper()
	d := divide(context.Background(), strings.NewReader(in))
	d.mu.Lock()
	for !d.ended {
		d.changed.Wait()
	}
	d.mu.Unlock()
	a := k.apply()
	defer a.End()
	w := &applier{Apply: a, efforts: map[string]effort{}, unknown: map[string]int{}}
	if err := w.apply(context.Background(), d.at.parts); err != nil {
		k.Fatal(err)
	}
	return w, d.at.parts
}

func TestBatchesTogether(t *testing.T) {
	threes := func(p *Pending) { p.MaxRequests = 3 }
	claim := func(statements ...string) (*kb, []batch, string) {
		k := open(t, append([]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR, error_message VARCHAR)",
			"INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(9) t(i)"}, statements...)...)
		out := k.must(k.pending(threes), "")
		return k, k.batches(out), k.answers(out)
	}
	k, _, in := claim()
	var batches []batch
	if w, _ := k.together(in); w.verdict(nil) != nil {
		t.Error(w.verdict(nil))
	}
	k.right()
	k.expect("SELECT count(*), count(DISTINCT embedded_at), count(DISTINCT batch) FROM embeddings", "9|1|3")
	k.expect("SELECT count(*) FROM chunks WHERE embedding_status = 'READY'", "9")
	k.expect("SELECT count(*) FROM gbatch.jobs WHERE closed_at IS NULL", "0")

	// A batch that is refused does not keep the others from being applied.
	k, batches, in = claim()
	in = strings.ReplaceAll(in, batches[1].Batch, "bUNKNOWN")
	w, parts := k.together(in)
	if err := w.verdict(nil); err == nil || !strings.Contains(err.Error(), "batch bUNKNOWN was not claimed") {
		t.Error(err)
	}
	if i := slices.IndexFunc(parts, func(p *part) bool { return p.applied == nil }); i != 1 {
		t.Errorf("part %d was not applied", i)
	}
	k.expect("SELECT count(*) FROM chunks WHERE embedding_status = 'READY'", "6")

	// An error, a key without an answer, a key of another batch.
	k, batches, _ = claim()
	in = ""
	for i, b := range batches {
		in += k.vectorLine(b.Batch, b.chunks[0].ID, vec(b.chunks[0].Text)) + k.errorLine(b.Batch, b.chunks[1].ID, 3, "bad")
		in += k.vectorLine(b.Batch, batches[(i+1)%3].chunks[2].ID, vec("of another batch")) + k.jobLine(b.Batch, record.Succeeded, 2, 1)
	}
	w, _ = k.together(in)
	if err := w.verdict(nil); exit.Code(err) != exit.Partial || w.dropped != 3 || w.failed != 6 {
		t.Errorf("%v, dropped %d, failed %d", err, w.dropped, w.failed)
	}
	k.expect("SELECT embedding_status, count(*) FROM chunks GROUP BY ALL ORDER BY ALL", "FAILED|3\nPENDING|3\nREADY|3")
	k.expect("SELECT code, count(*), count(DISTINCT batch), sum(attempts) FROM gbatch.failures GROUP BY ALL ORDER BY ALL", "0|3|3|3\n3|3|3|3")

	// Two batches with the same text are applied one after the other: one was given
	// back, and its job succeeded all the same.
	k, _, in = claim("DELETE FROM chunks WHERE id <> 'c1'")
	k.sql("UPDATE gbatch.jobs SET state = '" + released + "', closed_at = claimed_at")
	in += k.answers(k.must(k.pending(), ""))
	if w, _ := k.together(in); w.verdict(nil) != nil {
		t.Error(w.verdict(nil))
	}
	k.right()
	k.expect("SELECT count(*) FROM embeddings", "1")
	k.expect("SELECT count(*) FROM gbatch.jobs WHERE succeeded = 1", "2")

	// The same records twice.
	k, _, in = claim()
	if w, _ := k.together(in + in); w.verdict(nil) != nil {
		t.Error(w.verdict(nil))
	}
	k.right()
	k.expect("SELECT count(*) FROM embeddings", "9")
}
