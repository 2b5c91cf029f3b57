package store

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"gbatch/pkg/duck"
)

// After an interrupted checkpoint, jobs-pending repairs the database, because a
// pipe that starts with it must continue without help. A command that only reads
// changes nothing, and says what to do.
func TestTornDatabase(t *testing.T) {
	k := open(t, "CREATE TABLE chunks AS SELECT range AS id, 'text ' || range AS text FROM range(300)")
	contents := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	k.must(k.pending(func(p *Pending) { p.Limit = 100 }), "")
	var journal []byte
	before := contents(k.DB)
	err := k.transact(duck.Write, func(c *duck.Conn) error {
		journal = contents(k.DB + ".journal")
		return c.Exec("UPDATE gbatch.jobs SET job = 'batches/new'")
	})
	if err != nil {
		t.Fatal(err)
	}
	after := contents(k.DB)
	// Only the first page of each block was written.
	torn := append(bytes.Clone(before), make([]byte, max(0, len(after)-len(before)))...)
	for at := 3 * 4096; at < len(after); at += 256 << 10 {
		copy(torn[at:at+4096], after[at:])
	}
	for path, b := range map[string][]byte{k.DB: torn, k.DB + ".journal": journal} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err = k.run(&Status{Database: k.Database, From: "chunks", Embeddings: "embeddings"}, "")
	if !errors.Is(err, duck.ErrUnfinished) || !strings.Contains(err.Error(), "for example jobs-pending "+k.DB) {
		t.Errorf("chunks-status: %v", err)
	}
	if !bytes.Equal(contents(k.DB), torn) {
		t.Error("chunks-status wrote to the database")
	}
	if out := k.must(&Jobs{Database: k.Database}, ""); out != "" {
		t.Errorf("jobs-pending printed %s", out)
	}
	k.must(&Status{Database: k.Database, From: "chunks", Embeddings: "embeddings"}, "")
	k.expect("SELECT requests, job FROM gbatch.jobs", "100")
}
