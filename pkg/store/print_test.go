package store

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// large is a table whose lines are more than all pieces together.
var large = []string{simple, "INSERT INTO chunks SELECT 'c' || i, repeat('text ' || i || ' ', 70000) FROM range(70) t(i)"}

// manyPieces makes batches that are larger and smaller than a piece.
func manyPieces(p *Pending) { p.MaxTokens, p.MaxBytes, p.MaxRequests = 1e9, 1e9, 7 }

// A first calls f before its first write.
type first struct {
	bytes.Buffer
	f func()
}

func (w *first) Write(b []byte) (int, error) {
	if w.f != nil {
		w.f()
		w.f = nil
	}
	return w.Buffer.Write(b)
}

// While the output blocks, the database is not held, and what changes in it then
// does not change what is printed.
func TestPrintingBlocks(t *testing.T) {
	k := open(t, large...)
	want := k.must(k.pending(manyPieces), "")
	if len(want) < 2*pieces*pieceSize {
		t.Fatalf("only %d bytes", len(want))
	}
	names := k.batches(want)
	// Another process notes jobs. The third batch is not printed completely at that
	// time, and of the last one nothing was read.
	out := first{f: func() {
		k.sql("UPDATE gbatch.jobs SET job = 'batches/x' WHERE batch <= '" + names[2].Batch + "' OR batch = '" + names[len(names)-1].Batch + "'")
	}}
	if err := k.pending(manyPieces).Run(context.Background(), nil, &out); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), want[:strings.LastIndex(want, `{"batch"`)]; got != want {
		t.Errorf("printed %d bytes, want %d", len(got), len(want))
	}
}

// A batch whose items disappear while it is printed is an error.
func TestItemsDisappear(t *testing.T) {
	k := open(t, large...)
	k.must(k.pending(manyPieces), "")
	out := first{f: func() { k.sql("DELETE FROM gbatch.items") }}
	if err := k.pending(manyPieces).Run(context.Background(), nil, &out); err == nil || !strings.Contains(err.Error(), "closed by another process") {
		t.Error(err)
	}
}

// The lines have the same order, in whatever order DuckDB stores the items.
func TestShuffledItems(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(30000) t(i)")
	want := k.must(k.pending(), "")
	k.sql("CREATE TABLE shuffled AS FROM gbatch.items ORDER BY hash(seq)", "DELETE FROM gbatch.items", "INSERT INTO gbatch.items FROM shuffled")
	if got := k.must(k.pending(), ""); got != want {
		t.Errorf("printed %.300s, want %.300s", got, want)
	}
}
