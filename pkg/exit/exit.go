// Package exit holds the exit codes of the suite, and the errors that carry
// them. An error without a code ends a command with [Failed].
package exit

import (
	"errors"
	"fmt"
	"strings"
)

// The exit codes are the same for every command. Codes above 128 are for
// signals.
const (
	OK         = 0
	Failed     = 1
	Usage      = 2 // wrong flags or arguments
	Partial    = 3 // done, but some keys or jobs failed; or findings
	Unfinished = 4 // not finished yet: --timeout, --once
	TryLater   = 5 // try later: quota, lock
	Unknown    = 6 // the outcome of a submission is unknown
	Malformed  = 7 // the input is cut short or malformed
	Refused    = 8 // refused by a cap
)

type coded struct {
	error
	code int
}

func (c coded) ExitCode() int { return c.code }
func (c coded) Unwrap() error { return c.error }

// With gives err an exit code. The code is kept when the error is wrapped.
func With(code int, err error) error { return coded{err, code} }

// Errorf is fmt.Errorf with an exit code.
func Errorf(code int, format string, args ...any) error {
	return coded{fmt.Errorf(format, args...), code}
}

// Word quotes a word of a command line, if a shell would not read it as it is:
// messages name commands to be copied.
func Word(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=,+@%", r)
	}
	if s != "" && strings.TrimLeftFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Code returns the exit code for a command that ends with err: the code of the
// outermost error in err's chain that has one, or else [Failed].
func Code(err error) int {
	if err == nil {
		return OK
	}
	var c interface{ ExitCode() int }
	if errors.As(err, &c) {
		return c.ExitCode()
	}
	return Failed
}

type kept struct{ error }

func (k kept) Unwrap() error { return k.error }

// Keep marks the error of a command whose output counts all the same: the records that
// it printed are complete and will not be printed anew, or other records than these
// have failed.
func Keep(err error) error {
	if err == nil {
		return nil
	}
	return kept{err}
}

// Keeps reports whether the output of a command that ends with err counts: it is done,
// done with some failures, or not finished yet, or the error is marked by [Keep].
func Keeps(err error) bool {
	code := Code(err)
	return code == OK || code == Partial || code == Unfinished || errors.As(err, new(kept))
}
