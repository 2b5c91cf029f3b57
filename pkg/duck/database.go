// Package duck is DuckDB as the commands use it: a file that is opened for one
// transaction only, rows and appenders that copy no value twice, and the
// repair of what a killed process leaves. It knows SQL, but no table.
//
// It is a thin layer over the driver's mapping package, DuckDB's C interface.
// database/sql cannot give what the commands need: rows read and arrays
// appended without a box around every value, an appender inside the transaction
// of the statements around it, and a file that is closed the moment its
// transaction ends.
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

// Version is the DuckDB that this package is written for. Another one may have
// other error texts (errors.go), another layout of values in memory (rows.go)
// or another file format (journal.go): run this package's tests and read the
// sources named there before changing Version.
const Version = "v1.5.6"

// A Database holds the flags of every command that takes a database, and the
// process's DuckDB from the first connection to End.
type Database struct {
	DB          string        `arg:"" name:"db" help:"The DuckDB file."`
	LockTimeout time.Duration `default:"1m" help:"How long to wait while another process holds the file."`
	MemoryLimit string        `default:"1GB" help:"How much memory DuckDB may use. It writes the rest to disk."`

	db    mapping.Database // has no file of its own; a Conn attaches it
	spill *spill           // nil if no folder can be made beside the file
}

// Access is what a transaction may do with the file.
type Access int

const (
	Read   Access = iota // other processes may read too
	Write                // the file must exist
	Create               // a missing file is created
)

// Connect makes a connection that has no file open, but a database in memory,
// called memory. The connection's statements are interrupted when ctx is done.
// It must be closed before [Database.End] is called.
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

// local refuses the names that DuckDB has for databases that are no file.
func (d *Database) local() error {
	switch _, err := os.Stat(d.DB); {
	case err == nil:
		return nil
	case d.DB == "" || strings.HasPrefix(d.DB, ":memory:"):
		return exit.Errorf(exit.Usage, "%q is a database in memory, which ends with its process: give the path of a file", d.DB)
	case scheme.MatchString(d.DB):
		return exit.Errorf(exit.Usage, "%.200q is not a file of this machine, and the database must be one: copy it here; a file of that name is ./%[1]s", d.DB)
	}
	return nil
}

// begin starts DuckDB. This takes longer than opening a file in it.
func (d *Database) begin() error {
	options := map[string]string{"temp_directory": ""}
	var err error
	if d.spill, err = newSpill(d.DB); err != nil {
		slog.Debug("nothing can go to disk", "error", err)
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
			return exit.Errorf(exit.Usage, "DuckDB does not take %q for %s", value, name)
		}
	}
	var message string
	if mapping.OpenExt(":memory:", &d.db, config, &message) == mapping.StateError {
		d.End()
		return newError(message)
	}
	return nil
}

// End stops DuckDB and frees its memory and its space on disk. All connections
// must be closed.
func (d *Database) End() {
	mapping.Close(&d.db)
	d.spill.remove()
	d.spill = nil
}
