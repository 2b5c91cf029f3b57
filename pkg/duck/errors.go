package duck

import (
	"errors"
	"fmt"
	"strings"

	"github.com/duckdb/duckdb-go/v2/mapping"

	"gbatch/pkg/lockfile"
)

// Most of DuckDB's errors are only texts. Only this file reads the texts.
// errors_test.go makes DuckDB produce each of them.

// These are the kinds of errors that callers distinguish with [errors.Is].
var (
	// ErrMissing is the error of a file that does not exist.
	ErrMissing = errors.New("does not exist")
	// ErrConstraint is the error of a row that violates a constraint of its
	// table. The error's text names the constraint.
	ErrConstraint = errors.New("constraint violation")
	// ErrSyntax is the error of a statement that is not SQL.
	ErrSyntax = errors.New("syntax error")

	// ErrUnfinished is the error of a file that cannot be read until it is
	// repaired. A process that opens the file for writing repairs it.
	ErrUnfinished = errors.New("a process was killed while DuckDB wrote a checkpoint")

	errLocked      = errors.New("the file is locked") // by another process
	errNoLocks     = lockfile.ErrUnsupported
	errCorrupt     = errors.New("the file is damaged")
	errNotDatabase = errors.New("not a DuckDB database")
	errNewer       = errors.New("a newer DuckDB wrote the file")
	errExists      = errors.New("the name is taken")
)

// kinds has the words that identify an error in DuckDB's text. The first match
// counts.
var kinds = []struct {
	text string
	err  error
}{
	{"Constraint Error: ", ErrConstraint},
	{"Parser Error: ", ErrSyntax},
	// The file is already locked when DuckDB opens it (lock.go). If DuckDB cannot
	// lock it then, the file system has no locks.
	{"Could not set lock on file", errNoLocks},
	{"Corrupt database file", errCorrupt},
	{"not a valid DuckDB database file", errNotDatabase},
	{"already exists", errExists},
}

// A duckError is an error of DuckDB, in DuckDB's words.
type duckError struct {
	message string // one line
	kind    error  // nil for all other errors
}

func (e *duckError) Error() string { return "DuckDB: " + e.message }
func (e *duckError) Unwrap() error { return e.kind }

func newError(message string) *duckError {
	e := &duckError{message: firstLine(message)}
	if strings.Contains(message, "No space left on device") {
		e.message += "; what was stored before is safe: make room, and run the command or the pipe again"
	}
	for _, k := range kinds {
		if strings.Contains(message, k.text) {
			e.kind = k.err
			return e
		}
	}
	var has, first, last int
	if _, versions, ok := strings.Cut(message, "version number "); ok {
		fmt.Sscanf(versions, "%d, but we can only read versions between %d and %d", &has, &first, &last)
	}
	if has > last {
		e.kind = errNewer
	}
	return e
}

// appenderError returns the error of an appender. Its text does not begin with
// its type.
func appenderError(a mapping.Appender) error {
	data := mapping.AppenderErrorData(a)
	defer mapping.DestroyErrorData(&data)
	e := newError(mapping.ErrorDataMessage(data))
	if mapping.ErrorDataErrorType(data) == mapping.ErrorTypeConstraint {
		e.kind = ErrConstraint
	}
	return e
}

// firstLine shortens a text of DuckDB for a message. The text may list all
// values of a type.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	if runes := []rune(s); len(runes) > 600 {
		s = string(runes[:600]) + " …"
	}
	return s
}
