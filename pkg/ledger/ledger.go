// Package ledger records how far the submission of each batch has come.
// gbatch-submit writes it. The commands that take a database read it, so that
// they know of a job before the database does.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"time"
)

// A Ledger holds an entry for each submission. [Files] is the ledger of one
// machine. The ledger that machines share is in pkg/gbatch, because it needs
// Cloud Storage, and the commands that take a database must not.
type Ledger interface {
	// Claim opens the entry of a name and holds it, so that no other process
	// submits the same batch. If another process holds the entry, Claim waits for
	// up to patience, and then fails with [ErrHeld] and the exit code TryLater.
	Claim(ctx context.Context, name string, patience time.Duration) (Entry, error)
	// Peek reads the entry of a name. It changes nothing and does not hold the
	// entry. If another process holds it, Peek fails with [ErrHeld].
	Peek(ctx context.Context, name string) (Entry, error)
	// Others returns the marks of other submissions whose lines have the same
	// hash.
	Others(ctx context.Context, name, hash string) ([]Mark, error)
}

// ErrHeld is the error for an entry that another process holds.
var ErrHeld = errors.New("another process is submitting the batch")

// An Entry is what the ledger knows about one submission. One process holds it
// at a time.
type Entry interface {
	// Mark returns what was set last, by this process or an earlier one. It is
	// zero if nothing was begun.
	Mark() Mark
	// Set replaces the mark, and returns when the new one is durable. After an
	// error this process may no longer hold the entry, so it must not do what the
	// mark announces.
	Set(ctx context.Context, m Mark) error
	// Forget makes Close remove the entry.
	Forget()
	// Close releases the entry.
	Close()
	// String says where the entry is.
	String() string
}

// These are the phases of a submission. A phase is set before its work is done.
const (
	Upload  = "upload"  // no job was created; an uploaded file may be at Google
	Create  = "create"  // a create may have been sent: it is unknown whether there is a job
	Created = "created" // there is a job, and its name is known: a receipt
)

// A Mark says how far a submission has come.
type Mark struct {
	Name     string    `json:"name"` // see [Name]
	Batch    string    `json:"batch"`
	SHA256   string    `json:"sha256"` // hash of the batch's lines
	Requests int       `json:"requests"`
	Phase    string    `json:"phase"`
	Input    string    `json:"input,omitempty"`
	Job      string    `json:"job,omitempty"`
	Session  string    `json:"session,omitempty"` // of the upload to Input; a secret, see [gcs.Upload]
	PID      int       `json:"pid"`               // the ledger sets this and the next two members
	Host     string    `json:"host"`
	Time     time.Time `json:"time"` // when the phase was set, by the clock of that machine

	// The following are for the ledger that machines share.
	Nonce    string  `json:"nonce,omitempty"`         // random: says which process, or which machine, wrote the mark
	Lease    float64 `json:"lease_seconds,omitempty"` // how long the mark holds the entry if it is not renewed
	Released bool    `json:"released,omitempty"`      // the process that wrote the mark ended in an orderly way
}

// Encode returns a mark as a line, with the present process as its writer.
func Encode(m Mark) ([]byte, error) {
	m.PID, m.Time = os.Getpid(), time.Now().UTC()
	m.Host, _ = os.Hostname()
	line, err := json.Marshal(m)
	return append(line, '\n'), err
}

// Decode reads a mark. A line that cannot be decoded may stand for a create.
func Decode(line []byte) Mark {
	var m Mark
	if json.Unmarshal(line, &m) != nil || m.Phase == "" || !slices.Contains(phases, m.Phase) {
		return Mark{Phase: Create}
	}
	return m
}

// phases are the phases of a submission, from nothing to a job.
var phases = []string{"", Upload, Create, Created}

// Farther returns the mark whose submission has come farther, or a if both have come
// equally far.
func Farther(a, b Mark) Mark {
	if slices.Index(phases, b.Phase) > slices.Index(phases, a.Phase) {
		return b
	}
	return a
}

// A Peeked entry was read, and is not held: its other methods do nothing.
type Peeked struct {
	Last  Mark
	Where string
}

func (e Peeked) Mark() Mark                    { return e.Last }
func (e Peeked) String() string                { return e.Where }
func (Peeked) Set(context.Context, Mark) error { return nil }
func (Peeked) Forget()                         {}
func (Peeked) Close()                          {}

// Name is the name of a submission, and of its job at Google. It is the same
// only for the same lines of the same batch. hash is 16 hexadecimal digits.
// batch is empty if the lines came without a header.
func Name(batch, hash string) string {
	if batch != "" {
		hash = batch + "-" + hash
	}
	return "gbatch-" + hash
}

var names = regexp.MustCompile(`^gbatch-(?:(.+)-)?[0-9a-f]{16}$`)

// Batch returns the batch in a name, "" if there is none.
func Batch(name string) string {
	if m := names.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}
