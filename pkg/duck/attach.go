package duck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/lockfile"
)

// rowGroup is how many rows DuckDB keeps together in new tables. The rows here
// are wide, up to 12 KB. With DuckDB's default of 122,880 rows, an append would
// start in the middle of a group of hundreds of megabytes, and each checkpoint
// would write the whole group again.
const rowGroup = 2048

// Transact opens the file, waits up to LockTimeout for its lock, runs work in
// one transaction and closes the file. Afterwards the file holds all of work's
// changes, or none.
//
// Statements use the file's tables without a prefix. They may also use the name
// that DuckDB gives the file, kb for kb.duckdb. The exceptions are a name that
// another database has, and schema, the name of the schema that work uses:
// DuckDB refuses an ambiguous name.
func (d *Database) Transact(ctx context.Context, mode Access, schema string, work func(*Conn) error) error {
	c, err := d.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return d.TransactOn(c, mode, schema, work)
}

// TransactOn is Transact on a connection that has no open file. The file stays
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

// sayAfter is how long attach waits for a locked file before it says so.
const sayAfter = time.Second

// attach opens the file and makes it the default database for names.
func (d *Database) attach(c *Conn, mode Access, schema string) error {
	if info, err := os.Stat(d.DB); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory, not a DuckDB file", d.DB)
	}
	// DuckDB could take a relative path for the name of an extension.
	path, err := filepath.Abs(d.DB)
	if err != nil {
		return err
	}
	// DuckDB also follows links: its WAL is beside the real file.
	real := lockfile.Target(path)
	if file := orphan(path, real); file != "" {
		return fmt.Errorf("%s does not exist, but %s does: it belongs to a database that was deleted or moved, and a new database would load its data; move the old database back to its place, or delete %[2]s if its data is not needed", d.DB, file)
	}
	if _, err := os.Stat(real); errors.Is(err, fs.ErrNotExist) && mode != Create {
		return fmt.Errorf("%s %w", d.DB, ErrMissing)
	}
	// Without the type, DuckDB would open a CSV file as a table in memory.
	option := fmt.Sprintf("(TYPE duckdb, ROW_GROUP_SIZE %d)", rowGroup)
	if mode == Read {
		option = "(TYPE duckdb, READ_ONLY)"
	}
	as := ""
	if base, _, _ := strings.Cut(filepath.Base(path), "."); strings.EqualFold(base, schema) {
		as = "AS attached "
	}
	if mode == Create {
		if err := d.create(c, real, option); err != nil {
			return d.explain(err)
		}
	}
	var file *lock
	var undo *journal
	start, told := time.Now(), false
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if file, err = lockFile(real, mode); err == nil {
			undo, err = openJournal(real, file, mode)
		}
		if err == nil {
			err = c.Exec("ATTACH " + Literal(path) + " " + as + option)
			if errors.Is(err, errExists) {
				err = c.Exec("ATTACH " + Literal(path) + " AS attached " + option)
			}
			if err == nil {
				break
			}
			undo.close()
		}
		file.release()
		if !errors.Is(err, errLocked) {
			return d.explain(err)
		}
		if time.Since(start) > d.LockTimeout {
			return exit.Errorf(exit.TryLater, "%s is held by another process, which did not release it within %v; try again later, or with a longer --lock-timeout", d.DB, d.LockTimeout)
		}
		if !told && time.Since(start) > sayAfter {
			told = true
			slog.Info("waiting, because the database is held by another process", "db", d.DB, "lock_timeout", d.LockTimeout)
		}
		select {
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
	c.detach = func() { closeFile(c, file, undo) }
	name, err := attached(c)
	if err != nil {
		return err
	}
	if err := c.Exec("USE " + Ident(name) + ".main"); err != nil || mode == Read {
		return err
	}
	return undo.protect(c)
}

// orphan finds a file that DuckDB or the journal keeps beside a database, if the
// database itself does not exist.
func orphan(path, real string) string {
	missing := func() bool {
		_, err := os.Stat(real)
		return errors.Is(err, fs.ErrNotExist)
	}
	if !missing() {
		return ""
	}
	for _, base := range []string{real, path} {
		for _, suffix := range []string{".wal", ".wal.checkpoint", ".wal.recovery", ".journal"} {
			// Another process may have created the database in the meantime. The
			// database has its name before it has a WAL.
			if _, err := os.Lstat(base + suffix); err == nil && missing() {
				return base + suffix
			}
		}
	}
	return ""
}

// create makes a missing file. The file gets its name when it is complete, so
// that no process ever sees a part of a database.
func (d *Database) create(c *Conn, real, option string) error {
	if _, err := os.Lstat(real); err == nil {
		return nil
	}
	attach := func(path string) error {
		return c.Exec("ATTACH " + Literal(path) + " AS new_file " + option + "; DETACH new_file")
	}
	if d.spill != nil {
		unnamed := filepath.Join(d.spill.dir, "new")
		if err := attach(unnamed); err != nil {
			return err
		}
		err := os.Link(unnamed, real)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return nil
		}
		slog.Debug("no link can be made", "error", err) // not every file system has links
	}
	// If the name of a new file is a link, DuckDB writes the WAL beside the link,
	// but later looks for it beside the file. So the file is created under its
	// real name.
	err := attach(real)
	if _, missing := os.Stat(real); missing == nil {
		return nil // another process created it first
	}
	return err
}

// attached returns DuckDB's name of the attached file.
func attached(c *Conn) (name string, err error) {
	_, err = c.One(func(r *Rows) { name = r.Text(0) }, "SELECT database_name FROM duckdb_databases() WHERE NOT internal AND database_name <> 'memory'")
	return name, err
}

// closeFile rolls back an open transaction and closes the file.
func closeFile(c *Conn, file *lock, undo *journal) {
	c.Exec("ROLLBACK") // fails if there is no transaction
	name, err := attached(c)
	if err == nil {
		err = c.Exec("USE memory.main; DETACH " + Ident(name)) // with .main, because the file may have a schema called memory
	}
	if err != nil {
		// The lock is kept: releasing it would also release DuckDB's own lock.
		slog.Error("DuckDB did not close the file", "error", err)
		unclosed = append(unclosed, file)
		return
	}
	undo.close()
	file.release()
}

// unclosed keeps the descriptors of files that DuckDB did not close. The garbage
// collector would close them.
var unclosed []*lock

// explain turns an error of opening the file into one that names the file.
func (d *Database) explain(err error) error {
	switch {
	case errors.Is(err, errNotDatabase):
		return fmt.Errorf("%s is not a DuckDB database", d.DB)
	case errors.Is(err, errNewer):
		return fmt.Errorf("%s was written by a newer DuckDB than the %s in this program; use a newer gbatch", d.DB, Version)
	case errors.Is(err, errNoLocks):
		return fmt.Errorf("%s cannot be opened: %w, and without locks two processes could destroy the database; move the database to a local disk", d.DB, errNoLocks)
	case errors.Is(err, ErrUnfinished):
		return fmt.Errorf("%s cannot be read: %w, and a command that only reads does not repair the file; run any other command, for example jobs-pending %[1]s, and then this one again", d.DB, err)
	default:
		return fmt.Errorf("%s: %w", d.DB, err)
	}
}
