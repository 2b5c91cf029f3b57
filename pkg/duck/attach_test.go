package duck

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// If a database is missing but its WAL or journal exists, the database is not
// created, because DuckDB would replay the old WAL into the new database.
// Nothing is written or deleted.
func TestOrphan(t *testing.T) {
	for _, suffix := range []string{".wal", ".wal.checkpoint", ".wal.recovery", ".journal"} {
		for _, link := range []bool{false, true} {
			k := &kb{t, Database{DB: filepath.Join(t.TempDir(), "kb.duckdb"), LockTimeout: time.Second}}
			real := k.DB
			if link {
				real = filepath.Join(t.TempDir(), "real.duckdb")
				if err := os.Symlink(real, k.DB); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(real+suffix, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, mode := range []Access{Read, Write, Create} {
				err := k.transact(mode, look)
				if err == nil || !strings.Contains(err.Error(), "does not exist, but "+real+suffix+" does") {
					t.Errorf("%s, link %v, mode %d: %v", suffix, link, mode, err)
				}
			}
			if got := string(contents(t, real+suffix)); got != "old" {
				t.Errorf("%s is now %q", suffix, got)
			}
			if _, err := os.Lstat(real); err == nil {
				t.Errorf("%s: the database was created", suffix)
			}
			// Without that file the database is created, and a WAL beside its
			// database is allowed.
			if err := os.Remove(real + suffix); err != nil {
				t.Fatal(err)
			}
			k.must(Create, "CREATE TABLE t AS SELECT 'x' AS s")
			k.expect("SELECT s FROM t", "x")
		}
	}
}

// If the database exists, the WAL of a killed process is read.
func TestKilled(t *testing.T) {
	if hold(t) {
		return
	}
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	k.held()()
	if names := k.leftovers(); !slices.Contains(names, "kb.duckdb.journal") {
		t.Errorf("the killed process left %q", names)
	}
	k.expect("SELECT s FROM t", "x")
	k.must(Write, "INSERT INTO t VALUES ('y')")
	k.expect("SELECT s FROM t ORDER BY s", "x", "y")
	if names := k.leftovers(); len(names) > 0 {
		t.Error(names)
	}
}

// A new database is created at the target of a link, at once under its real
// name: otherwise DuckDB would put the WAL beside the link, where it never looks
// again.
func TestLinkToMissing(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	k := &kb{t, Database{DB: filepath.Join(dir, "kb.duckdb")}}
	if err := os.Symlink("middle", k.DB); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real/other.duckdb", filepath.Join(dir, "middle")); err != nil {
		t.Fatal(err)
	}
	err := k.transact(Create, func(c *Conn) error {
		if err := c.Exec("CREATE TABLE kb.t AS SELECT 'x' AS s; COMMIT; INSERT INTO t VALUES ('y'); BEGIN"); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(dir, "real/other.duckdb.wal")); err != nil {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	k.expect("SELECT s FROM t ORDER BY s", "x", "y")
	for _, d := range []*Database{{DB: k.DB}, {DB: filepath.Join(dir, "real", "other.duckdb")}} {
		other := &kb{t, *d}
		other.expect("SELECT s FROM t ORDER BY s", "x", "y")
	}
}
