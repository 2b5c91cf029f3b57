package duck

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/exit"
)

var errTest = errors.New("a test ends this")

// Each of DuckDB's own errors is recognised as one kind.
func TestErrors(t *testing.T) {
	all := []error{ErrMissing, ErrConstraint, ErrSyntax, errLocked, errNotDatabase, errNewer, errExists}
	is := func(err, want error, text string) {
		t.Helper()
		for _, kind := range all {
			if errors.Is(err, kind) != (kind == want) {
				t.Errorf("%v: is %q: %v", err, kind, kind != want)
			}
		}
		if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %q is not in one line of it", err, text)
		}
	}
	k := open(t, "CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT CHECK (n < 5), s VARCHAR NOT NULL)", "INSERT INTO t VALUES (1, 1, 'x')")
	for sql, want := range map[string]struct {
		kind error
		text string
	}{
		"INSERT INTO t VALUES (1, 2, 'y')":  {ErrConstraint, "id: 1"},
		"INSERT INTO t VALUES (2, 7, 'y')":  {ErrConstraint, "CHECK"},
		"INSERT INTO t VALUES (2, 2, NULL)": {ErrConstraint, "t.s"},
		"SELECT FROM WHERE":                 {ErrSyntax, "syntax error"},
		"SELECT error('boom')":              {nil, "boom"},
		"FROM nowhere":                      {nil, "nowhere"},
		"CREATE TABLE t (i BIGINT)":         {errExists, `"t"`},
		"ATTACH ':memory:' AS memory":       {errExists, "memory"},
	} {
		is(k.transact(Write, func(c *Conn) error { return c.Exec(sql) }), want.kind, want.text)
	}
	is(k.transact(Write, func(c *Conn) error { return c.Exec("INSERT INTO t VALUES (?, 2, 'y')", 1) }), ErrConstraint, "id: 1")
	add := func(table string) error {
		return k.transact(Write, func(c *Conn) error {
			a, err := c.Appender("kb", table, BigInt, BigInt, Varchar)
			if err != nil {
				return err
			}
			a.SetInt(0, 1)
			a.SetInt(1, 1)
			a.SetText(2, "y")
			if err := a.Next(); err != nil {
				return err
			}
			return a.Close()
		})
	}
	is(add("t"), ErrConstraint, "id: 1")
	is(add("nowhere"), nil, "nowhere")

	// These files cannot be opened. The error must wrap DuckDB's own error.
	attach := func(db []byte) error {
		path := filepath.Join(t.TempDir(), "other.duckdb")
		if err := os.WriteFile(path, db, 0o600); err != nil {
			t.Fatal(err)
		}
		return k.transact(Write, func(c *Conn) error { return c.Exec("ATTACH " + Literal(path) + " (TYPE duckdb)") })
	}
	good := contents(t, k.DB)
	version := func(n uint64) []byte {
		db := append([]byte(nil), good...)
		binary.LittleEndian.PutUint64(db[12:], n)
		binary.LittleEndian.PutUint64(db, checksum(db[:4096]))
		return db
	}
	is(attach([]byte(strings.Repeat("not a database\n", 1000))), errNotDatabase, "not a valid")
	is(attach(version(1000)), errNewer, "1000")
	is(attach(version(1)), nil, "version number 1,")
	// DuckDB 1.5 says so on a full disk.
	is(newError("Failed to append: Could not write file \"/srv/kb.duckdb\": No space left on device"), nil, "safe: make room, and run the command or the pipe again")
	k.DB = filepath.Join(t.TempDir(), "none")
	is(k.transact(Read, nil), ErrMissing, "none does not exist")
	is(k.transact(Write, nil), ErrMissing, "none does not exist")
	k.DB = t.TempDir()
	is(k.transact(Create, nil), nil, "is a directory")
}

// If another process holds a file, the command waits, and then ends with exit
// code 5.
func TestLocked(t *testing.T) {
	if hold(t) {
		return
	}
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	release := k.held()
	k.LockTimeout = 10 * time.Millisecond
	for _, mode := range []Access{Read, Write, Create} {
		if err := k.transact(mode, nil); exit.Code(err) != exit.TryLater || !strings.Contains(err.Error(), "is held by another process, which did not release it within 10ms") {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
	// The file is opened as soon as it is free.
	k.LockTimeout = time.Minute
	done := make(chan error)
	go func() { done <- k.transact(Write, func(c *Conn) error { return c.Exec("INSERT INTO t VALUES ('y')") }) }()
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	k.expect("SELECT s FROM t ORDER BY s", "x", "y")
}
