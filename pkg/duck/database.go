// Package duck wraps DuckDB for the commands: a file that is open for one
// transaction only, rows and appenders that do not copy a value twice, and the
// repair of a file after its process was killed. It knows SQL, but no table.
//
// It is a thin layer over the driver's mapping package, DuckDB's C interface.
// The commands need what database/sql does not have: rows that are read and
// arrays that are appended without boxing every value, an appender inside the
// present transaction, and a file that is closed at the end of its transaction.
package duck

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/duckdb/duckdb-go/v2/mapping"

	"gbatch/pkg/exit"
)

// Version is the DuckDB that this package is written for. Another version may
// have other error texts (errors.go), another layout of values in memory
// (rows.go) or another file format (journal.go). Before you change Version, run
// this package's tests and read the sources that these files name.
const Version = "v1.5.6"

// A Database holds the flags of every command that takes a database. It also
// holds the process's DuckDB, from the first connection to End.
type Database struct {
	DB          string        `arg:"" name:"db" help:"The DuckDB file."`
	LockTimeout time.Duration `default:"1m" help:"How long to wait while another process holds the file."`
	MemoryLimit string        `default:"1GB" help:"How much memory DuckDB may use. It writes the rest to disk."`

	db    mapping.Database // without a file; each Conn attaches the file
	spill *spill           // nil if no folder can be created beside the file
}

// LinkedWith is for the line of --version.
func (*Database) LinkedWith() string { return "DuckDB " + Version }

// Access says what a transaction may do with the file.
type Access int

const (
	Read   Access = iota // other processes may read too
	Write                // the file must exist
	Create               // a missing file is created
)

// Connect makes a connection that has no open file, but an in-memory database
// called memory. The connection's statements are interrupted when ctx is done.
// Close it before you call [Database.End].
func (d *Database) Connect(ctx context.Context) (*Conn, error) {
	if err := d.local(); err != nil {
		return nil, err
	}
	if d.db.Ptr == nil {
		if err := d.begin(); err != nil {
			return nil, err
		}
	}
	return connect(ctx, d.db)
}

var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)

// local refuses DuckDB's names for databases that are not files.
func (d *Database) local() error {
	switch _, err := os.Stat(d.DB); {
	case err == nil:
		return nil
	case d.DB == "" || strings.HasPrefix(d.DB, ":memory:"):
		return exit.Errorf(exit.Usage, "%q is a database in memory, and would be lost at the end of the command: give the path of a file", d.DB)
	case scheme.MatchString(d.DB):
		return exit.Errorf(exit.Usage, "%.200q is not a local file: copy the database to this machine; if it is the name of a file, write ./%[1]s", d.DB)
	}
	return nil
}

// begin starts DuckDB. That takes longer than opening a file.
func (d *Database) begin() error {
	options := map[string]string{"temp_directory": ""}
	var err error
	if d.spill, err = newSpill(d.DB); err != nil {
		slog.Debug("DuckDB cannot write temporary data to disk", "error", err)
	} else {
		options["temp_directory"] = d.spill.dir
	}
	if d.MemoryLimit != "" {
		options["memory_limit"] = d.MemoryLimit
	}
	var config mapping.Config
	if mapping.CreateConfig(&config) == mapping.StateError {
		return errors.New("no memory for DuckDB's configuration")
	}
	defer mapping.DestroyConfig(&config)
	for name, value := range options {
		if mapping.SetConfig(config, name, value) == mapping.StateError {
			d.End()
			return exit.Errorf(exit.Usage, "DuckDB does not accept %q for %s", value, name)
		}
	}
	var message string
	if mapping.OpenExt(":memory:", &d.db, config, &message) == mapping.StateError {
		d.End()
		return newError(message)
	}
	return nil
}

// End stops DuckDB and frees its memory and its disk space. Close all
// connections before.
func (d *Database) End() {
	mapping.Close(&d.db)
	d.spill.remove()
	d.spill = nil
}
