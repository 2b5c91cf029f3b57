package duck

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duckdb/duckdb-go/v2/mapping"

	"gbatch/pkg/exit"
)

// A kb is a database under test.
type kb struct {
	testing.TB
	Database
}

func open(t testing.TB, statements ...string) *kb {
	k := &kb{t, Database{DB: filepath.Join(t.TempDir(), "kb.duckdb"), LockTimeout: 10 * time.Second}}
	for _, s := range statements {
		k.must(Create, s)
	}
	return k
}

// transact runs work in a new DuckDB, as a command would.
func (k *kb) transact(mode Access, work func(*Conn) error) error {
	d := k.Database
	defer d.End()
	return d.Transact(context.Background(), mode, "reserved", work)
}

func (k *kb) must(mode Access, sql string) {
	k.Helper()
	if err := k.transact(mode, func(c *Conn) error { return c.Exec(sql) }); err != nil {
		k.Fatalf("%s: %v", sql, err)
	}
}

// rows returns the rows of a query as texts.
func (k *kb) rows(query string) (lines []string) {
	k.Helper()
	err := k.transact(Read, func(c *Conn) error {
		r, err := c.Query(query)
		if err != nil {
			return err
		}
		defer r.Close()
		for r.Next() {
			lines = append(lines, r.Text(0))
		}
		return nil
	})
	if err != nil {
		k.Fatalf("%s: %v", query, err)
	}
	return lines
}

func (k *kb) expect(query string, want ...string) {
	k.Helper()
	if got := k.rows(query); !slices.Equal(got, want) {
		k.Errorf("%s\n got %q\nwant %q", query, got, want)
	}
}

func contents(t testing.TB, path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// leftovers lists the files beside a database.
func (k *kb) leftovers() (names []string) {
	entries, err := os.ReadDir(filepath.Dir(k.DB))
	if err != nil {
		k.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(k.DB) {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestVersion(t *testing.T) {
	if v := mapping.LibraryVersion(); v != Version {
		t.Errorf("DuckDB is %s, and this package is written for %s: see the comment on Version", v, Version)
	}
}

func TestTransaction(t *testing.T) {
	k := open(t, "CREATE TABLE t (s VARCHAR)", "INSERT INTO t VALUES ('one')")
	err := k.transact(Write, func(c *Conn) error {
		if err := c.Exec("INSERT INTO t VALUES ('two')"); err != nil {
			return err
		}
		return context.Canceled
	})
	if err != context.Canceled {
		t.Error(err)
	}
	k.expect("SELECT s FROM t", "one")
	if err := k.transact(Read, func(c *Conn) error { return c.Exec("INSERT INTO t VALUES ('two')") }); err == nil {
		t.Error("a reader wrote")
	}
	k.must(Write, "INSERT INTO t VALUES ('two'), ('three')")
	k.expect("SELECT s FROM t ORDER BY s", "one", "three", "two")
	if left := k.leftovers(); len(left) > 0 {
		t.Error(left)
	}
}

// Only Create makes a missing file. A name that DuckDB could misunderstand is
// treated as the name of a file.
func TestNamesOfFiles(t *testing.T) {
	for _, name := range []string{"reserved.duckdb", "Reserved.db", "memory.duckdb", "temp", "select.duckdb", "it's my \"kb\".duckdb"} {
		k := &kb{t, Database{DB: filepath.Join(t.TempDir(), name)}}
		k.must(Create, "CREATE SCHEMA reserved; CREATE TABLE reserved.t AS SELECT 'x' AS s")
		k.must(Write, "INSERT INTO reserved.t VALUES ('y')")
		k.expect("SELECT s FROM reserved.t ORDER BY s", "x", "y")
	}
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	k.expect("SELECT s FROM kb.main.t", "x")
}

// An interrupt ends a statement. The file is then closed and undamaged.
func TestInterrupt(t *testing.T) {
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	d := k.Database
	defer d.End()
	ctx, cancel := context.WithCancelCause(t.Context())
	err := d.Transact(ctx, Write, "", func(c *Conn) error {
		if err := c.Exec("INSERT INTO t VALUES ('y')"); err != nil {
			return err
		}
		cancel(errTest)
		return c.Exec("SELECT count(*) FROM range(10000000) a, range(10000000) b")
	})
	if err != errTest {
		t.Error(err)
	}
	k.expect("SELECT s FROM t", "x")
}

// DuckDB forgets an interrupt that comes between two statements.
func TestInterruptBetweenStatements(t *testing.T) {
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	d := k.Database
	defer d.End()
	ctx, cancel := context.WithCancelCause(t.Context())
	err := d.Transact(ctx, Write, "", func(c *Conn) error {
		cancel(errTest)
		<-c.interrupted
		return c.Exec("SELECT count(*) FROM range(10000000) a, range(10000000) b")
	})
	if err != errTest {
		t.Error(err)
	}
	k.expect("SELECT s FROM t", "x")
}

// Values are read back as they were written, also across data chunks.
func TestValues(t *testing.T) {
	const n = 5000
	texts := []string{"", "twelve bytes", "thirteen byte", strings.Repeat("ж", 1000)}
	row := func(i int) (text string, number int64, u Uint128, f []float32) {
		return texts[i%len(texts)], int64(i) - n/2, Uint128{uint64(i), 1 << 63}, []float32{float32(i), -1.5, 0}
	}
	k := open(t, "CREATE TABLE t (s VARCHAR, i BIGINT, u UHUGEINT, f FLOAT[3], b BOOLEAN)")
	err := k.transact(Write, func(c *Conn) error {
		a, err := c.Inserter("INSERT INTO t SELECT *, i % 2 = 0 FROM appended", []string{"s", "i", "u", "f"}, Varchar, BigInt, UHugeInt, FloatArray(3))
		if err != nil {
			return err
		}
		for i := range n {
			s, number, u, f := row(i)
			a.SetText(0, s)
			a.SetInt(1, number)
			a.SetUint128(2, u)
			a.SetFloats(3, f)
			if i%7 == 0 {
				a.SetNull(0)
				a.SetNull(1)
			}
			if err := a.Next(); err != nil {
				return err
			}
		}
		return a.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	err = k.transact(Read, func(c *Conn) error {
		r, err := c.Query("SELECT s, i, u, f, b FROM t ORDER BY u")
		if err != nil {
			return err
		}
		defer r.Close()
		i := 0
		for ; r.Next(); i++ {
			s, number, u, f := row(i)
			even := number%2 == 0
			if i%7 == 0 {
				s, number, even = "", 0, false
			}
			got := make([]float32, 3)
			r.Floats(3, got)
			if r.Borrow(0) != s || r.Int(1) != number || r.Uint128(2) != u || !slices.Equal(got, f) || r.Bool(4) != even {
				t.Fatalf("row %d: %q %d %v %v %v", i, r.Text(0), r.Int(1), r.Uint128(2), got, r.Bool(4))
			}
		}
		if i != n {
			t.Errorf("%d rows", i)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestArguments(t *testing.T) {
	k := open(t)
	err := k.transact(Create, func(c *Conn) error {
		var got string
		ok, err := c.One(func(r *Rows) { got = r.Text(0) }, "SELECT concat_ws('|', ?, ?, ?, ?, ?)", "it's", 7, int64(1)<<40, true, nil)
		if err != nil || !ok || got != "it's|7|1099511627776|true" {
			t.Errorf("%q %v %v", got, ok, err)
		}
		if ok, err := c.One(func(*Rows) { t.Error("a row") }, "SELECT 1 WHERE false"); ok || err != nil {
			t.Error(ok, err)
		}
		if err := c.Exec("SELECT ?", 1.5); err == nil || !strings.Contains(err.Error(), "argument 1 (float64)") {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMemoryLimit(t *testing.T) {
	k := open(t, "CREATE TABLE t (s VARCHAR)")
	k.MemoryLimit = "200MB"
	k.expect("SELECT current_setting('memory_limit')", "190.7 MiB")
	k.MemoryLimit = "much"
	if err := k.transact(Read, func(*Conn) error { return nil }); exit.Code(err) != exit.Usage {
		t.Error(err)
	}
	if left := k.leftovers(); len(left) > 0 {
		t.Error(left)
	}
}

func TestStream(t *testing.T) {
	err := open(t, "CREATE TABLE t (i BIGINT)").transact(Write, func(c *Conn) error {
		n, sum := 0, int64(0)
		add := func(r *Rows) { n++; sum += r.Int(0) }
		if err := c.Stream(add, "SELECT range FROM range(100000)"); err != nil || n != 100_000 || sum != 4_999_950_000 {
			t.Errorf("%d rows, sum %d: %v", n, sum, err)
		}
		// An error behind the first rows is an error, not the end.
		err := c.Stream(add, "SELECT CASE WHEN range = 90000 THEN error('row '||range)::BIGINT ELSE range END FROM range(100000)")
		if err == nil || !strings.Contains(err.Error(), "row 90000") {
			t.Errorf("an error while rows are read: %v", err)
		}
		if err := c.Stream(add, "SELECT missing"); err == nil {
			t.Error("a wrong statement is no error")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
