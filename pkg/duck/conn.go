package duck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	bindings "github.com/duckdb/duckdb-go-bindings"
	"github.com/duckdb/duckdb-go/v2/mapping"
)

// A Conn is a connection with at most one open file. DuckDB allows one writing
// process or many readers. So a Conn lives for one transaction, and is never
// held while the command waits for a pipe or the network. It is not safe for
// concurrent use.
type Conn struct {
	c    mapping.Connection
	ctx  context.Context
	stop func() // stops watching ctx

	interrupted chan struct{} // closed after the first interrupt
	detach      func()        // closes the file; nil if there is none
}

// connect makes a connection whose statements are interrupted when ctx is done.
func connect(ctx context.Context, db mapping.Database) (*Conn, error) {
	c := &Conn{ctx: ctx}
	if mapping.Connect(db, &c.c) == mapping.StateError {
		return nil, errors.New("DuckDB did not make a connection")
	}
	c.watch()
	return c, nil
}

// watch interrupts the statements when c.ctx is done, until c.stop is called.
func (c *Conn) watch() {
	c.interrupted = make(chan struct{})
	closing, ended := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(c.ctx, func() {
		defer close(ended)
		mapping.Interrupt(c.c)
		close(c.interrupted)
		// DuckDB forgets an interrupt when the next statement begins.
		for again := time.NewTicker(10 * time.Millisecond); ; mapping.Interrupt(c.c) {
			select {
			case <-again.C:
			case <-closing:
				again.Stop()
				return
			}
		}
	})
	c.stop = func() {
		close(closing)
		if !stop() {
			<-ended
		}
	}
}

// Detach closes the file after a transaction. The connection stays, with its
// temporary tables.
func (c *Conn) Detach() {
	c.stop()
	ctx := c.ctx
	c.ctx = context.Background()
	c.detach()
	c.detach, c.ctx = nil, ctx
	c.watch()
}

// Close rolls back an open transaction, closes the file and ends the connection.
func (c *Conn) Close() {
	c.stop()
	c.ctx = context.Background()
	if c.detach != nil {
		c.detach()
	}
	mapping.Disconnect(&c.c)
}

// Exec runs statements. Only a single statement may have arguments.
func (c *Conn) Exec(sql string, args ...any) error {
	r, err := c.Query(sql, args...)
	if err != nil {
		return err
	}
	r.Close()
	return nil
}

// Query runs a statement and returns its rows. Close the rows before the
// connection. An argument is a string, an int, an int64, a bool or nil.
func (c *Conn) Query(sql string, args ...any) (*Rows, error) {
	var stmts mapping.ExtractedStatements
	defer mapping.DestroyExtracted(&stmts)
	n := mapping.ExtractStatements(c.c, sql, &stmts)
	if n == 0 {
		return nil, c.failed(mapping.ExtractStatementsError(stmts), sql)
	}
	for i := range n - 1 {
		r, err := c.run(stmts, i, sql, nil)
		if err != nil {
			return nil, err
		}
		r.Close()
	}
	return c.run(stmts, n-1, sql, args)
}

// run runs one of several statements.
func (c *Conn) run(stmts mapping.ExtractedStatements, i mapping.IdxT, sql string, args []any) (*Rows, error) {
	var stmt mapping.PreparedStatement
	defer mapping.DestroyPrepare(&stmt)
	if mapping.PrepareExtractedStatement(c.c, stmts, i, &stmt) == mapping.StateError {
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
			return nil, fmt.Errorf("argument %d (%T) of %q has a type that is not supported", i+1, arg, firstLine(sql))
		}
	}
	var pending mapping.PendingResult
	defer mapping.DestroyPending(&pending)
	if mapping.PendingPrepared(stmt, &pending) == mapping.StateError {
		return nil, c.failed(mapping.PendingError(pending), sql)
	}
	// This thread works with DuckDB's threads. When no work is left for it, it
	// sleeps. In DuckDB's own call, it would ask for work all the time.
	const shortest, longest = 20 * time.Microsecond, time.Millisecond
	pause := shortest
	for {
		switch mapping.PendingExecuteTask(pending) {
		case mapping.PendingStateResultReady:
			r := &Rows{}
			return c.started(r, mapping.ExecutePending(pending, &r.result), sql)
		case mapping.PendingStateError:
			return nil, c.failed(mapping.PendingError(pending), sql)
		case mapping.PendingStateNoTasksAvailable:
			time.Sleep(pause)
			pause = min(2*pause, longest)
		default:
			pause = shortest
		}
	}
}

func (c *Conn) started(r *Rows, state mapping.State, sql string) (*Rows, error) {
	if state == mapping.StateError {
		err := c.failed(mapping.ResultError(&r.result), sql)
		mapping.DestroyResult(&r.result)
		return nil, err
	}
	r.columns = make([]column, mapping.ColumnCount(&r.result))
	return r, nil
}

func (c *Conn) failed(message, sql string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	if sql != "ROLLBACK" {
		slog.Debug("DuckDB refused a statement", "sql", sql, "error", message)
	}
	return newError(message)
}

// One runs a query for a single row and calls f with it. If there is no row, f
// is not called and ok is false. The row is valid until f returns.
func (c *Conn) One(f func(*Rows), sql string, args ...any) (ok bool, err error) {
	r, err := c.Query(sql, args...)
	if err != nil {
		return false, err
	}
	defer r.Close()
	if !r.Next() {
		return false, nil
	}
	f(r)
	return true, nil
}

// Each calls f with every row of a query. A row is valid until f returns.
func (c *Conn) Each(f func(*Rows), sql string, args ...any) error {
	r, err := c.Query(sql, args...)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		f(r)
	}
	return nil
}

// Stream is Each for a result that is too large for memory: DuckDB computes the
// rows while f is called with them. f must not use c.
func (c *Conn) Stream(f func(*Rows), sql string) error {
	var stmt mapping.PreparedStatement
	defer mapping.DestroyPrepare(&stmt)
	if mapping.Prepare(c.c, sql, &stmt) == mapping.StateError {
		return c.failed(mapping.PrepareError(stmt), sql)
	}
	r := &Rows{}
	// The binding calls this deprecated. DuckDB has no other call that streams.
	state := bindings.ExecutePreparedStreaming(stmt, &r.result)
	r, err := c.started(r, state, sql)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		f(r)
	}
	if message := mapping.ResultError(&r.result); message != "" {
		return c.failed(message, sql)
	}
	return context.Cause(c.ctx)
}

// Count returns the single BIGINT that a query yields.
func (c *Conn) Count(sql string, args ...any) (n int64, err error) {
	_, err = c.One(func(r *Rows) { n = r.Int(0) }, sql, args...)
	return n, err
}
