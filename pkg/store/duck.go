package store

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
	"unsafe"

	"github.com/duckdb/duckdb-go/v2/mapping"

	"gbatch/pkg/exit"
)

// This file is a thin layer over the driver's mapping package, DuckDB's C
// interface. The commands need what database/sql cannot give: rows read and
// vectors appended without a box around every value, an appender inside the
// transaction of the statements around it, and a file that is closed the
// moment its transaction ends.

// A Database holds the flags of every command that takes a database.
type Database struct {
	DB          string        `arg:"" name:"db" help:"The DuckDB file."`
	LockTimeout time.Duration `default:"1m" help:"How long to try again while another process holds the file."`
	MemoryLimit string        `default:"1GB" help:"What DuckDB may take; beyond it goes to disk."`

	db    mapping.Database // a DuckDB without a file, from the first connection to end
	spill *spill           // nil where the folder of the file takes none
}

// A conn is a connection and the database file it has open. DuckDB lets one
// process write or many read, so a conn lives as long as one transaction and is
// never held while a pipe or a network is waited for.
type conn struct {
	c        mapping.Connection
	stop     func()
	ctx      context.Context
	attached bool
	name     string   // of the attached file, in DuckDB
	undo     *journal // of a file attached to be written
}

type access int

const (
	read   access = iota // others may read too
	write                // the file must exist
	create               // a missing file is made
)

// rowGroup is how many rows DuckDB keeps together in what we append. With its
// own 122,880 a batch of vectors falls into the middle of a group of hundreds
// of megabytes, and each checkpoint writes that group again.
const rowGroup = 2048

// open opens the file, waiting for its lock up to LockTimeout. The work on the
// connection is interrupted when ctx is done.
func (d *Database) open(ctx context.Context, mode access) (*conn, error) {
	c, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.attach(*d, mode); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// attach opens the file on a connection and makes it the one that names are
// looked up in.
func (c *conn) attach(d Database, mode access) error {
	if info, err := os.Stat(d.DB); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory, not a DuckDB file", d.DB)
	} else if errors.Is(err, os.ErrNotExist) && mode != create {
		return fmt.Errorf("%s does not exist; chunks-add makes a database, and so does DuckDB itself", d.DB)
	}
	// An absolute path cannot be taken for the name of an extension.
	path, err := filepath.Abs(d.DB)
	if err != nil {
		return err
	}
	// Without the type, DuckDB takes a CSV file for a table in memory.
	option := fmt.Sprintf("(TYPE duckdb, ROW_GROUP_SIZE %d)", rowGroup)
	if mode == read {
		option = "(TYPE duckdb, READ_ONLY)"
	}
	// The name is the one that DuckDB itself would give the file, so that a
	// SELECT which spells it out is understood, unless it is taken, or would make
	// the name of our schema ambiguous.
	as := ""
	if base, _, _ := strings.Cut(filepath.Base(path), "."); strings.EqualFold(base, "gbatch") {
		as = "AS attached "
	}
	// The journal is where DuckDB has its WAL.
	real := path
	if to, err := filepath.EvalSymlinks(path); err == nil {
		real = to
	}
	if mode == create {
		if err := c.make(d, path, option); err != nil {
			return d.explain(err)
		}
	}
	start := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if c.undo, err = openJournal(real, mode); err == nil {
			err = c.exec("ATTACH " + literal(path) + " " + as + option)
			if err != nil && strings.Contains(err.Error(), "already exists") {
				err = c.exec("ATTACH " + literal(path) + " AS attached " + option)
			}
			if err == nil {
				break
			}
			c.undo.close()
			c.undo = nil
		}
		if !errors.Is(err, errLocked) && !strings.Contains(err.Error(), "Could not set lock on file") {
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
	c.attached = true
	if err := c.named(); err != nil {
		return err
	}
	if err := c.exec("USE " + ident(c.name)); err != nil || mode == read {
		return err
	}
	if mode == write {
		// Vectors do not become smaller than by a sixth, and the outbox is there
		// for hours: to try all of DuckDB's compressions on them takes longer than
		// to write them.
		if err := c.exec("SET force_compression = 'uncompressed'"); err != nil {
			return err
		}
	}
	return c.undo.protect(c)
}

// make makes a missing file, whole from the moment on that it has its name.
func (c *conn) make(d Database, path, option string) error {
	if _, err := os.Lstat(path); err == nil || d.spill == nil {
		return nil // else DuckDB makes it, if it can
	}
	unnamed := filepath.Join(d.spill.dir, "new")
	if err := c.exec("ATTACH " + literal(unnamed) + " AS gbatch_new " + option + "; DETACH gbatch_new"); err != nil {
		return err
	}
	if err := os.Link(unnamed, path); err != nil && !errors.Is(err, os.ErrExist) {
		slog.Debug("no link can be made", "error", err) // not every file system has them
	}
	return nil
}

// named looks up what DuckDB calls the attached file.
func (c *conn) named() error {
	_, err := c.one(func(r *rows) { c.name = r.string(0) }, "SELECT database_name FROM duckdb_databases() WHERE NOT internal AND database_name <> 'memory'")
	return err
}

// connect makes a connection to the process's DuckDB, which has no file open
// yet.
func (d *Database) connect(ctx context.Context) (*conn, error) {
	if d.db.Ptr == nil {
		if err := d.begin(); err != nil {
			return nil, err
		}
	}
	c := &conn{ctx: ctx}
	if mapping.Connect(d.db, &c.c) == mapping.StateError {
		return nil, errors.New("DuckDB gives no connection")
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		mapping.Interrupt(c.c)
		close(interrupted)
	})
	c.stop = func() {
		if !stop() {
			<-interrupted
		}
	}
	return c, nil
}

// begin starts DuckDB, which takes longer than to open a file in it.
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
			d.end()
			return exit.Errorf(exit.Usage, "DuckDB does not take %q for %s", value, name)
		}
	}
	var message string
	if mapping.OpenExt(":memory:", &d.db, config, &message) == mapping.StateError {
		d.end()
		return errors.New("DuckDB: " + firstLine(message))
	}
	return nil
}

// end ends DuckDB. No connection may be left.
func (d *Database) end() {
	mapping.Close(&d.db)
	d.spill.remove()
	d.spill = nil
}

// explain says in our words what DuckDB says of a file it cannot open.
func (d *Database) explain(err error) error {
	text := err.Error()
	var has, first, last int
	if _, versions, ok := strings.Cut(text, "version number "); ok {
		fmt.Sscanf(versions, "%d, but we can only read versions between %d and %d", &has, &first, &last)
	}
	switch {
	case strings.Contains(text, "not a valid DuckDB database file"):
		return fmt.Errorf("%s is not a DuckDB database", d.DB)
	case has > last:
		return fmt.Errorf("%s was written by a newer DuckDB than the %s in this program; use a newer gbatch", d.DB, mapping.LibraryVersion())
	default:
		return fmt.Errorf("%s: %w", d.DB, err)
	}
}

// close ends the connection and closes the file. An open transaction is rolled
// back.
func (c *conn) close() {
	c.stop()
	c.ctx = context.Background()
	var err error
	if c.attached {
		c.exec("ROLLBACK") // an error where there is no transaction
		if c.name == "" {  // it was interrupted
			err = c.named()
		}
		if err == nil {
			err = c.exec("USE memory; DETACH " + ident(c.name))
		}
	}
	if err == nil {
		c.undo.close()
	} else {
		slog.Error("DuckDB did not close the file", "error", err)
		unclosed = append(unclosed, c.undo) // its lock goes with the process
	}
	mapping.Disconnect(&c.c)
}

// unclosed are the journals of files that could not be closed.
var unclosed []*journal

// transact opens the file, runs work in one transaction and closes the file:
// all of work's changes are in it then, or none.
func (d *Database) transact(ctx context.Context, mode access, work func(*conn) error) error {
	c, err := d.open(ctx, mode)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.exec("BEGIN"); err != nil {
		return err
	}
	if err := work(c); err != nil {
		return err
	}
	return c.exec("COMMIT")
}

// exec runs statements. Only a single statement may have arguments.
func (c *conn) exec(sql string, args ...any) error {
	r, err := c.query(sql, args...)
	if err != nil {
		return err
	}
	r.close()
	return nil
}

// query runs a statement and gives its rows, which must be closed. An argument
// is a string, an int, an int64, a bool or nil.
func (c *conn) query(sql string, args ...any) (*rows, error) {
	r := &rows{}
	if len(args) == 0 {
		state := mapping.Query(c.c, sql, &r.result)
		return c.started(r, state, sql)
	}
	var stmt mapping.PreparedStatement
	defer mapping.DestroyPrepare(&stmt)
	if mapping.Prepare(c.c, sql, &stmt) == mapping.StateError {
		return nil, c.failed(mapping.PrepareError(stmt), sql)
	}
	for i, arg := range args {
		state, at := mapping.StateError, mapping.IdxT(i+1)
		switch arg := arg.(type) {
		case string:
			state = mapping.BindVarchar(stmt, at, arg)
		case int:
			state = mapping.BindInt64(stmt, at, int64(arg))
		case int64:
			state = mapping.BindInt64(stmt, at, arg)
		case bool:
			state = mapping.BindBoolean(stmt, at, arg)
		case nil:
			state = mapping.BindNull(stmt, at)
		}
		if state == mapping.StateError {
			return nil, fmt.Errorf("argument %d (%T) of %q cannot be bound", i+1, arg, firstLine(sql))
		}
	}
	state := mapping.ExecutePrepared(stmt, &r.result)
	return c.started(r, state, sql)
}

func (c *conn) started(r *rows, state mapping.State, sql string) (*rows, error) {
	if state == mapping.StateError {
		err := c.failed(mapping.ResultError(&r.result), sql)
		mapping.DestroyResult(&r.result)
		return nil, err
	}
	r.columns = make([]column, mapping.ColumnCount(&r.result))
	return r, nil
}

func (c *conn) failed(message, sql string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	if sql != "ROLLBACK" {
		slog.Debug("DuckDB refused a statement", "sql", sql, "error", message)
	}
	return errors.New("DuckDB: " + firstLine(message))
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// A rows walks over a result.
type rows struct {
	result  mapping.Result
	chunk   mapping.DataChunk
	columns []column
	row, n  int
}

// A column is the data of one column in the present data chunk.
type column struct {
	data     unsafe.Pointer
	validity unsafe.Pointer // nil: no value is NULL
}

// next steps to the next row.
func (r *rows) next() bool {
	if r.row++; r.row < r.n {
		return true
	}
	if r.chunk.Ptr != nil {
		mapping.DestroyDataChunk(&r.chunk)
	}
	r.chunk = mapping.FetchChunk(r.result)
	if r.chunk.Ptr == nil {
		r.n = 0
		return false
	}
	r.row, r.n = 0, int(mapping.DataChunkGetSize(r.chunk))
	for i := range r.columns {
		v := mapping.DataChunkGetVector(r.chunk, mapping.IdxT(i))
		r.columns[i] = column{mapping.VectorGetData(v), mapping.VectorGetValidity(v)}
	}
	return r.n > 0
}

func (r *rows) close() {
	if r.chunk.Ptr != nil {
		mapping.DestroyDataChunk(&r.chunk)
	}
	mapping.DestroyResult(&r.result)
}

func (r *rows) null(col int) bool {
	v := r.columns[col].validity
	return v != nil && *(*uint64)(unsafe.Add(v, r.row/64*8))&(1<<(r.row%64)) == 0
}

// int is the value of a BIGINT column, 0 where it is NULL.
func (r *rows) int(col int) int64 {
	if r.null(col) {
		return 0
	}
	return *(*int64)(unsafe.Add(r.columns[col].data, r.row*8))
}

// A hash is a UHUGEINT as DuckDB has it in memory: the low half, then the high.
type hash [2]uint64

// hash is the value of a UHUGEINT column, which must not be NULL.
func (r *rows) hash(col int) hash {
	return *(*hash)(unsafe.Add(r.columns[col].data, r.row*16))
}

// bool is the value of a BOOLEAN column, false where it is NULL.
func (r *rows) bool(col int) bool {
	return !r.null(col) && *(*bool)(unsafe.Add(r.columns[col].data, r.row))
}

// borrow is the value of a VARCHAR column, "" where it is NULL. It is valid
// until the next call of next or close.
//
// A value is a duckdb_string_t of 16 bytes: the length in 4 bytes, then up to
// 12 bytes of text, or 4 bytes of its start and a pointer to the whole.
func (r *rows) borrow(col int) string {
	if r.null(col) {
		return ""
	}
	p := unsafe.Add(r.columns[col].data, r.row*16)
	n := *(*uint32)(p)
	if n <= 12 {
		return unsafe.String((*byte)(unsafe.Add(p, 4)), n)
	}
	return unsafe.String(*(**byte)(unsafe.Add(p, 8)), n)
}

// string is a copy of the value of a VARCHAR column.
func (r *rows) string(col int) string { return strings.Clone(r.borrow(col)) }

// vector copies the value of a FLOAT[n] column to dst.
func (r *rows) vector(col int, dst []float32) {
	v := mapping.ArrayVectorGetChild(mapping.DataChunkGetVector(r.chunk, mapping.IdxT(col)))
	data := unsafe.Slice((*float32)(mapping.VectorGetData(v)), (r.row+1)*len(dst))
	copy(dst, data[r.row*len(dst):])
}

// one runs a query for a single row and hands it to f. Without a row f is not
// called and ok is false.
func (c *conn) one(f func(*rows), sql string, args ...any) (ok bool, err error) {
	r, err := c.query(sql, args...)
	if err != nil {
		return false, err
	}
	defer r.close()
	if !r.next() {
		return false, nil
	}
	f(r)
	return true, nil
}

// count is the single BIGINT a query gives.
func (c *conn) count(sql string, args ...any) (n int64, err error) {
	_, err = c.one(func(r *rows) { n = r.int(0) }, sql, args...)
	return n, err
}

// An appender writes rows to a table inside the connection's transaction, one
// data chunk at a time and without a conversion of its values.
type appender struct {
	a       mapping.Appender
	chunk   mapping.DataChunk
	columns []cell
	n, size int
}

type cell struct {
	vector mapping.Vector
	array  bool
	data   unsafe.Pointer // of the values; of the values inside, for FLOAT[n]
}

var (
	varchar = func() mapping.LogicalType { return mapping.CreateLogicalType(mapping.TypeVarchar) }
	bigint  = func() mapping.LogicalType { return mapping.CreateLogicalType(mapping.TypeBigInt) }
	hugeint = func() mapping.LogicalType { return mapping.CreateLogicalType(mapping.TypeUHugeInt) }
	floats  = func(dim int) mapping.LogicalType {
		float := mapping.CreateLogicalType(mapping.TypeFloat)
		defer mapping.DestroyLogicalType(&float)
		return mapping.CreateArrayType(float, mapping.IdxT(dim))
	}
)

// appender opens an appender on a table whose columns have the given types, or
// types that DuckDB casts them to: text to a number, say.
func (c *conn) appender(catalog, schema, table string, types ...mapping.LogicalType) (*appender, error) {
	a := new(appender)
	state := mapping.AppenderCreateExt(c.c, catalog, schema, table, &a.a)
	return a.begin(state, types)
}

// inserter opens an appender whose rows are handed to an INSERT as the table
// appended, with columns of the given names and types, when it is closed. Such
// an INSERT works on all cores.
func (c *conn) inserter(insert string, names []string, types ...mapping.LogicalType) (*appender, error) {
	a := new(appender)
	state := mapping.AppenderCreateQuery(c.c, insert, types, "appended", names, &a.a)
	return a.begin(state, types)
}

func (a *appender) begin(state mapping.State, types []mapping.LogicalType) (*appender, error) {
	if state == mapping.StateError {
		return nil, a.fail()
	}
	a.size = int(mapping.VectorSize())
	a.columns = make([]cell, len(types))
	a.chunk = mapping.CreateDataChunk(types)
	for i := range types {
		a.columns[i].array = mapping.GetTypeId(types[i]) == mapping.TypeArray
		mapping.DestroyLogicalType(&types[i])
	}
	a.refresh()
	return a, nil
}

// refresh looks up where the columns' memory is.
func (a *appender) refresh() {
	for i := range a.columns {
		v := mapping.DataChunkGetVector(a.chunk, mapping.IdxT(i))
		a.columns[i].vector = v
		if a.columns[i].array {
			v = mapping.ArrayVectorGetChild(v)
		}
		a.columns[i].data = mapping.VectorGetData(v)
	}
}

func (a *appender) fail() error {
	message := firstLine(mapping.AppenderError(a.a))
	a.destroy()
	return errors.New("DuckDB: " + message)
}

// destroy gives the memory back. What was not pushed is lost.
func (a *appender) destroy() {
	mapping.AppenderClear(a.a)
	mapping.AppenderDestroy(&a.a)
	if a.chunk.Ptr != nil {
		mapping.DestroyDataChunk(&a.chunk)
	}
}

func (a *appender) setInt(col int, v int64) {
	*(*int64)(unsafe.Add(a.columns[col].data, a.n*8)) = v
}

func (a *appender) setHash(col int, v hash) {
	*(*hash)(unsafe.Add(a.columns[col].data, a.n*16)) = v
}

func (a *appender) setString(col int, v string) {
	mapping.VectorAssignStringElement(a.columns[col].vector, mapping.IdxT(a.n), v)
}

func (a *appender) setNull(col int) {
	v := a.columns[col].vector
	mapping.VectorEnsureValidityWritable(v)
	mapping.ValiditySetRowInvalid(mapping.VectorGetValidity(v), mapping.IdxT(a.n))
}

func (a *appender) setVector(col int, v []float32) {
	copy(unsafe.Slice((*float32)(unsafe.Add(a.columns[col].data, a.n*len(v)*4)), len(v)), v)
}

// next ends a row whose columns were all set.
func (a *appender) next() error {
	if a.n++; a.n < a.size {
		return nil
	}
	return a.push()
}

func (a *appender) push() error {
	mapping.DataChunkSetSize(a.chunk, mapping.IdxT(a.n))
	if mapping.AppendDataChunk(a.a, a.chunk) == mapping.StateError {
		return a.fail()
	}
	mapping.DataChunkReset(a.chunk)
	a.refresh()
	a.n = 0
	return nil
}

// close writes what is left. The appender cannot be used any more.
func (a *appender) close() error {
	if a.n > 0 {
		if err := a.push(); err != nil {
			return err
		}
	}
	if mapping.AppenderFlush(a.a) == mapping.StateError {
		return a.fail()
	}
	a.destroy()
	return nil
}

// ident quotes a name as a SQL identifier.
func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal quotes a text as a SQL string.
func literal(text string) string { return `'` + strings.ReplaceAll(text, `'`, `''`) + `'` }
