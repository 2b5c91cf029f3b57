package duck

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gbatch/pkg/exit"
)

// A checkpoint is a database file before and after it, and its journal.
type checkpoint struct{ before, after, journal []byte }

// checkpoints changes a database again and again.
func checkpoints(t *testing.T) (all []checkpoint) {
	k := open(t, "CREATE TABLE texts AS SELECT range AS id, repeat('text ' || range || ' ', 20) AS text, NULL::VARCHAR AS status FROM range(5000)",
		"CREATE SCHEMA s; CREATE TABLE s.batches (name VARCHAR, n BIGINT); CREATE TABLE s.items (seq BIGINT, id BIGINT, text VARCHAR)")
	for i := range 8 {
		at := checkpoint{before: contents(t, k.DB)}
		err := k.transact(Write, func(c *Conn) error {
			if i > 0 {
				at.journal = contents(t, k.DB+".journal")
			}
			for j := range 3 {
				part := fmt.Sprintf("id BETWEEN %[1]d AND %[1]d + 99", 300*i+100*j)
				err := c.Exec(fmt.Sprintf(`INSERT INTO s.batches VALUES ('b%d.%d', 100);
					INSERT INTO s.items SELECT id, id, text FROM texts WHERE %s; UPDATE texts SET status = 'PENDING' WHERE %[3]s`, i, j, part))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(k.DB + ".journal"); err == nil {
			t.Fatal("the journal is still there")
		}
		at.after = contents(t, k.DB)
		if i > 0 {
			all = append(all, at)
		}
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
	for _, table := range []string{"texts", "s.batches", "s.items"} {
		all.WriteString(strings.Join(k.rows("SELECT concat_ws('|', *COLUMNS(*)) FROM "+table+" ORDER BY ALL"), "\n") + "\n")
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
				k = file(t, c.unfinished(at, n), nil)
				if err := k.transact(Read, func(c *Conn) error { return c.Exec("SELECT count(text) FROM texts") }); err != nil {
					if !strings.Contains(err.Error(), "checksum") {
						t.Error(err)
					}
					refused++
				}
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

// hold is the other process of held.
func hold(t *testing.T) bool {
	path := os.Getenv("GBATCH_TEST_HOLD")
	if path == "" {
		return false
	}
	d := Database{DB: path}
	err := d.Transact(t.Context(), Write, "", func(*Conn) error {
		os.Stdout.WriteString("held\n")
		os.Stdin.Read(make([]byte, 1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// held has another process, which runs the same test, open the database. kill
// kills that process.
func (k *kb) held() (kill func()) {
	other := exec.Command(os.Args[0], "-test.run=^"+k.Name()+"$")
	other.Env = append(os.Environ(), "GBATCH_TEST_HOLD="+k.DB)
	in, err := other.StdinPipe()
	if err != nil {
		k.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		k.Fatal(err)
	}
	if err := other.Start(); err != nil {
		k.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		other.Process.Kill()
		other.Wait()
	})
	k.Cleanup(func() { in.Close(); kill() })
	if b := make([]byte, 5); true {
		if _, err := out.Read(b); err != nil || string(b) != "held\n" {
			k.Fatalf("%q %v", b, err)
		}
	}
	return kill
}

// The journal of a running process stays.
func TestJournalOfAnother(t *testing.T) {
	if hold(t) {
		return
	}
	all := checkpoints(t)
	k := file(t, all[len(all)-1].after, nil)
	kill := k.held()
	if err := k.transact(Read, nil); exit.Code(err) != exit.TryLater {
		t.Errorf("a held database: %v", err)
	}
	if _, err := os.Stat(k.DB + ".journal"); err != nil {
		t.Errorf("the journal of the other process is gone: %v", err)
	}
	kill()
	k.must(Read, "SELECT 1")
	if _, err := os.Stat(k.DB + ".journal"); err == nil {
		t.Error("the journal of a dead process is still there")
	}
}

// In a folder that may not be written to, a journal does not keep readers out.
func TestJournalThatStays(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write to every folder")
	}
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	db := contents(t, k.DB)
	k = file(t, db, []byte("of no use"))
	folder := filepath.Dir(k.DB)
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(folder, 0o700)
	k.expect("SELECT s FROM t", "x")
}
