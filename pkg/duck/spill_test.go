package duck

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Processes that spill at the same time must not read each other's rows.
func TestSpillAtOnce(t *testing.T) {
	k := open(t, "CREATE TABLE t (s VARCHAR)")
	var group sync.WaitGroup
	for i := range 3 {
		group.Go(func() {
			d := k.Database
			d.MemoryLimit = "40MB"
			defer d.End()
			c, err := d.Connect(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			// Each thread takes its own memory.
			err = c.Exec(fmt.Sprintf("SET threads = 2; CREATE TABLE t AS SELECT range AS i, %d || repeat(md5(range::VARCHAR), 5) AS s FROM range(500000)", i))
			if err != nil {
				t.Error(err)
				return
			}
			if spilled, _ := filepath.Glob(filepath.Join(d.spill.dir, "duckdb_temp*")); len(spilled) == 0 {
				t.Error("nothing was spilled")
			}
			if info, err := os.Stat(d.spill.dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			n, err := c.Count(fmt.Sprintf("SELECT count(*) FROM t WHERE s = %d || repeat(md5(i::VARCHAR), 5)", i))
			if err != nil || n != 500000 {
				t.Errorf("%d rows are right, %v", n, err)
			}
		})
	}
	group.Wait()
	if left := k.leftovers(); len(left) > 0 {
		t.Error(left)
	}
}

// The folder of a killed process is deleted, that of a running process is not.
func TestSpillLeft(t *testing.T) {
	k := open(t, "CREATE TABLE t (s VARCHAR)")
	dead := k.DB + ".tmp-dead"
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "duckdb_temp_storage_DEFAULT-0.tmp"} {
		if err := os.WriteFile(filepath.Join(dead, name), []byte("one"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	living, err := newSpill(k.DB)
	if err != nil {
		t.Fatal(err)
	}
	k.must(Write, "INSERT INTO t VALUES ('x')")
	if left := k.leftovers(); len(left) != 1 || left[0] != filepath.Base(living.dir) {
		t.Error(left)
	}
	living.remove()
	if left := k.leftovers(); len(left) > 0 {
		t.Error(left)
	}
}
