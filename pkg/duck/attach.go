package duck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gbatch/pkg/exit"
)

// rowGroup is how many rows DuckDB keeps together in new tables. The rows here
// are wide, up to 12 KB: with DuckDB's own 122,880 rows an append falls into
// the middle of a group of hundreds of megabytes, and each checkpoint writes
// the whole group again.
const rowGroup = 2048

// Transact opens the file, waits up to LockTimeout for its lock, runs work in
// one transaction and closes the file: afterwards the file holds all of work's
// changes, or none.
//
// Statements find the file's tables without a prefix. They may also use the
// name that DuckDB gives the file, kb for kb.duckdb, unless another database
// has it or it is schema, the name of the schema that work uses: DuckDB refuses
// a name that could be both.
func (d *Database) Transact(ctx context.Context, mode Access, schema string, work func(*Conn) error) error {
	c, err := d.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return d.TransactOn(c, mode, schema, work)
}

// TransactOn is Transact on a connection that has no file open. The file stays
// open until the connection is closed.
func (d *Database) TransactOn(c *Conn, mode Access, schema string, work func(*Conn) error) error {
	if err := d.attach(c, mode, schema); err != nil {
		return err
	}
	if err := c.Exec("BEGIN"); err != nil {
		return err
	}
	if err := work(c); err != nil {
		return err
	}
	return c.Exec("COMMIT")
}

// attach opens the file and makes it the database in which names are looked up.
func (d *Database) attach(c *Conn, mode Access, schema string) error {
	if info, err := os.Stat(d.DB); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory, not a DuckDB file", d.DB)
	} else if errors.Is(err, os.ErrNotExist) && mode != Create {
		return fmt.Errorf("%s %w", d.DB, ErrMissing)
	}
	// DuckDB could take a relative path for the name of an extension.
	path, err := filepath.Abs(d.DB)
	if err != nil {
		return err
	}
	// Without the type, DuckDB takes a CSV file for a table in memory.
	option := fmt.Sprintf("(TYPE duckdb, ROW_GROUP_SIZE %d)", rowGroup)
	if mode == Read {
		option = "(TYPE duckdb, READ_ONLY)"
	}
	as := ""
	if base, _, _ := strings.Cut(filepath.Base(path), "."); strings.EqualFold(base, schema) {
		as = "AS attached "
	}
	// DuckDB follows links too: it has its WAL beside the real file.
	real := path
	if to, err := filepath.EvalSymlinks(path); err == nil {
		real = to
	}
	if mode == Create {
		if err := d.create(c, path, option); err != nil {
			return d.explain(err)
		}
	}
	var undo *journal
	start := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if undo, err = openJournal(real, mode); err == nil {
			err = c.Exec("ATTACH " + Literal(path) + " " + as + option)
			if errors.Is(err, errExists) {
				err = c.Exec("ATTACH " + Literal(path) + " AS attached " + option)
			}
			if err == nil {
				break
			}
			undo.close()
		}
		if !errors.Is(err, errLocked) {
			return d.explain(err)
		}
		if time.Since(start) > d.LockTimeout {
			return exit.Errorf(exit.TryLater, "%s is held by another process, still after %v; try again later or give --lock-timeout more", d.DB, d.LockTimeout)
		}
		slog.Debug("the database is held by another process", "db", d.DB)
		select {
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
	c.detach = func() { closeFile(c, undo) }
	name, err := attached(c)
	if err != nil {
		return err
	}
	if err := c.Exec("USE " + Ident(name)); err != nil || mode == Read {
		return err
	}
	return undo.protect(c)
}

// create makes a missing file. It gets its name when it is complete, so that no
// process ever sees a part of a database.
func (d *Database) create(c *Conn, path, option string) error {
	if _, err := os.Lstat(path); err == nil || d.spill == nil {
		return nil // DuckDB opens or makes it
	}
	unnamed := filepath.Join(d.spill.dir, "new")
	if err := c.Exec("ATTACH " + Literal(unnamed) + " AS new_file " + option + "; DETACH new_file"); err != nil {
		return err
	}
	if err := os.Link(unnamed, path); err != nil && !errors.Is(err, os.ErrExist) {
		slog.Debug("no link can be made", "error", err) // not every file system has links
	}
	return nil
}

// attached is what DuckDB calls the attached file.
func attached(c *Conn) (name string, err error) {
	_, err = c.One(func(r *Rows) { name = r.Text(0) }, "SELECT database_name FROM duckdb_databases() WHERE NOT internal AND database_name <> 'memory'")
	return name, err
}

// closeFile rolls an open transaction back and closes the file.
func closeFile(c *Conn, undo *journal) {
	c.Exec("ROLLBACK") // an error if there is no transaction
	name, err := attached(c)
	if err == nil {
		err = c.Exec("USE memory; DETACH " + Ident(name))
	}
	if err != nil {
		slog.Error("DuckDB did not close the file", "error", err)
		unclosed = append(unclosed, undo)
		return
	}
	undo.close()
}

// unclosed keeps the journals of files that DuckDB did not close, with their
// descriptors open: closing one would give up DuckDB's lock on its file.
var unclosed []*journal

// explain makes an error of opening the file one that names the file.
func (d *Database) explain(err error) error {
	switch {
	case errors.Is(err, errNotDatabase):
		return fmt.Errorf("%s is not a DuckDB database", d.DB)
	case errors.Is(err, errNewer):
		return fmt.Errorf("%s was written by a newer DuckDB than the %s in this program; use a newer gbatch", d.DB, Version)
	default:
		return fmt.Errorf("%s: %w", d.DB, err)
	}
}
