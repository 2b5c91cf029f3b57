package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/exit"
)

// A checkpoint is a database file before and after one, and the journal of it.
type checkpoint struct{ before, after, journal []byte }

func contents(t *testing.T, path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkpoints claims a part of a table again and again.
func checkpoints(t *testing.T) (all []checkpoint) {
	k := open(t, "CREATE TABLE chunks AS SELECT range AS id, repeat('text ' || range || ' ', 20) AS text, NULL::VARCHAR AS embedding_status FROM range(5000)")
	k.must(k.pending(func(p *Pending) { p.Limit = 300 }), "")
	for range 3 {
		at := checkpoint{before: contents(t, k.DB)}
		p := k.pending(func(p *Pending) { p.MaxRequests = 100; p.Limit = 300 })
		c, close := k.conn(write)
		at.journal = contents(t, k.DB+".journal")
		work := func() error {
			if err := c.exec("BEGIN"); err != nil {
				return err
			}
			if err := p.prepare(c); err != nil {
				return err
			}
			if _, err := p.claim(c, &round{size: roundSize, left: p.Limit}); err != nil {
				return err
			}
			return c.exec("COMMIT")
		}
		err := work()
		close()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(k.DB + ".journal"); err == nil {
			t.Fatal("the journal is still there")
		}
		at.after = contents(t, k.DB)
		all = append(all, at)
	}
	return all
}

// blocks lists where the blocks of a journal are in the database.
func (c checkpoint) blocks() (at []int) {
	for b := c.journal[len(journalMagic)+head : len(c.journal)-4]; len(b) > 0; b = b[16+binary.LittleEndian.Uint64(b[8:]):] {
		at = append(at, int(binary.LittleEndian.Uint64(b)))
	}
	return at
}

const blockSize = 256 << 10

// unfinished is the file as it is before the head is written, with n bytes of
// the block at a place written.
func (c checkpoint) unfinished(at, n int) []byte {
	b := bytes.Clone(c.after)
	if len(c.before) > len(b) {
		b = append(b, c.before[len(b):]...) // it is cut off only afterwards
	}
	copy(b[:head], c.before)
	copy(b[at+n:at+blockSize], c.before[at+n:])
	return b
}

func (k *kb) everything() string {
	var all strings.Builder
	for _, table := range []string{"chunks", "gbatch.jobs", "gbatch.items", "gbatch.failures", "embeddings"} {
		all.WriteString(k.rows("FROM "+table+" ORDER BY ALL") + "\n")
	}
	return all.String()
}

// file is a database of the given bytes, with a journal.
func file(t *testing.T, db, journal []byte) *kb {
	k := &kb{t, Database{DB: filepath.Join(t.TempDir(), "kb.duckdb"), LockTimeout: 10 * time.Millisecond}}
	for path, b := range map[string][]byte{k.DB: db, k.DB + ".journal": journal} {
		if len(b) == 0 {
			continue
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// A checkpoint that was cut short at any place leaves the database as it was.
func TestCheckpointCutShort(t *testing.T) {
	torn, refused := 0, 0
	for _, c := range checkpoints(t) {
		for _, at := range c.blocks() {
			if bytes.Equal(c.before[at:at+blockSize], c.after[at:at+blockSize]) {
				continue
			}
			want := file(t, c.before, nil).everything()
			for _, n := range []int{4096, blockSize - 4096} {
				torn++
				k := file(t, c.unfinished(at, n), c.journal)
				if got := k.everything(); got != want {
					t.Errorf("block at %d torn after %d bytes: the database is not what it was", at, n)
				}
				if _, err := os.Stat(k.DB + ".journal"); err == nil {
					t.Error("the journal is still there")
				}
				d := file(t, c.unfinished(at, n), nil).Database
				if err := d.transact(context.Background(), read, func(c *conn) error { return c.exec("SELECT count(text) FROM chunks") }); err != nil {
					if !strings.Contains(err.Error(), "checksum") {
						t.Error(err)
					}
					refused++
				}
				d.end()
			}
		}
	}
	if torn == 0 || refused == 0 {
		t.Errorf("%d files were torn, and DuckDB refused %d of them without a journal: nothing was tested", torn, refused)
	}
}

// A journal that was not written to its end, or is of a checkpoint that was
// finished, or of another file, changes nothing.
func TestJournalOfNoUse(t *testing.T) {
	all := checkpoints(t)
	c := all[len(all)-1]
	bad := bytes.Clone(c.journal)
	bad[len(bad)/2]++
	for name, test := range map[string]struct{ db, journal []byte }{
		"finished": {c.after, c.journal},
		"cut":      {c.before, c.journal[:len(c.journal)/2]},
		"bad":      {c.unfinished(c.blocks()[0], blockSize), bad},
		"short":    {c.before, []byte("g")},
		// What a file has whose head happens to be the same.
		"whole": {c.unfinished(c.blocks()[0], blockSize), c.journal},
	} {
		k := file(t, test.db, test.journal)
		k.everything()
		if got := contents(t, k.DB); !bytes.Equal(got, test.db) {
			t.Errorf("%s: the database was changed", name)
		}
		if _, err := os.Stat(k.DB + ".journal"); err == nil {
			t.Errorf("%s: the journal is still there", name)
		}
	}
}

// The journal of a process that works stays alone.
func TestJournalOfAnother(t *testing.T) {
	if path := os.Getenv("GBATCH_TEST_HOLD"); path != "" {
		d := Database{DB: path}
		if _, err := d.open(context.Background(), write); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("held\n")
		os.Stdin.Read(make([]byte, 1))
		return
	}
	all := checkpoints(t)
	k := file(t, all[len(all)-1].after, nil)
	other := exec.Command(os.Args[0], "-test.run=^TestJournalOfAnother$")
	other.Env = append(os.Environ(), "GBATCH_TEST_HOLD="+k.DB)
	in, _ := other.StdinPipe()
	out, _ := other.StdoutPipe()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer in.Close()
	if b := make([]byte, 5); true {
		if _, err := out.Read(b); err != nil || string(b) != "held\n" {
			t.Fatalf("%q %v", b, err)
		}
	}
	if _, err := k.run(&Jobs{k.Database}, ""); exit.Code(err) != exit.TryLater {
		t.Errorf("a held database: %v", err)
	}
	if _, err := os.Stat(k.DB + ".journal"); err != nil {
		t.Errorf("the journal of the other process is gone: %v", err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	other.Wait()
	k.must(&Jobs{k.Database}, "")
	if _, err := os.Stat(k.DB + ".journal"); err == nil {
		t.Error("the journal of a dead process is still there")
	}
}

// In a folder that may not be written to, a journal does not keep readers out.
func TestJournalThatStays(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write to every folder")
	}
	k := open(t, simple)
	db := contents(t, k.DB)
	k = file(t, db, []byte("of no use"))
	folder := filepath.Dir(k.DB)
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(folder, 0o700)
	k.expect("SELECT count(*) FROM chunks", "0")
}
