// Package ledger holds how far the submission of each batch has come.
// gbatch-submit writes it. The commands that take a database read it, so that
// they know of a job before the database does.
package ledger

import (
	"context"
	"regexp"
	"time"
)

// A Ledger holds an entry for each submission. Its first form is [Files], for
// one machine. The interface also fits an object in a bucket, which many
// machines share and of which a process holds a lease.
type Ledger interface {
	// Claim opens the entry of a name and holds it, so that no other process
	// submits the same batch. It waits while another process holds the entry,
	// but not longer than patience: then the exit code is 5.
	Claim(ctx context.Context, name string, patience time.Duration) (Entry, error)
	// Others are the marks of other submissions than name whose lines have the
	// same hash.
	Others(name, hash string) []Mark
}

// An Entry is the ledger's knowledge of one submission. One process holds it at
// a time.
type Entry interface {
	// Mark is what was set last, by this process or an earlier one. It is zero
	// if nothing was begun.
	Mark() Mark
	// Set replaces the mark, and returns when the new one is durable. An error
	// means that this process may not hold the entry any more, and must not do
	// what the mark announces.
	Set(ctx context.Context, m Mark) error
	// Forget makes Close remove the entry: nothing is left to remember.
	Forget()
	// Close gives the entry up.
	Close()
	// String tells where the entry is.
	String() string
}

// The phases of a submission. Each is set before what it names is done.
const (
	Upload  = "upload"  // nothing was created; an uploaded file may lie at Google
	Create  = "create"  // a create may have been sent: whether there is a job is not known
	Created = "created" // there is a job, and its name is known: a receipt
)

// A Mark says how far a submission has come.
type Mark struct {
	Name     string    `json:"name"` // see [Name]
	Batch    string    `json:"batch"`
	SHA256   string    `json:"sha256"` // of the batch's lines
	Requests int       `json:"requests"`
	Phase    string    `json:"phase"`
	Input    string    `json:"input,omitempty"`
	Job      string    `json:"job,omitempty"`
	PID      int       `json:"pid"` // these three are the ledger's to fill in
	Host     string    `json:"host"`
	Time     time.Time `json:"time"` // of the phase
}

// Name is the name of a submission, and of its job at Google: only for the same
// lines of the same batch is it the same. hash is 16 hexadecimal digits. batch
// is empty if the lines came without a header.
func Name(batch, hash string) string {
	if batch != "" {
		hash = batch + "-" + hash
	}
	return "gbatch-" + hash
}

var names = regexp.MustCompile(`^gbatch-(?:(.+)-)?[0-9a-f]{16}$`)

// Batch is the batch in a name, "" if there is none.
func Batch(name string) string {
	if m := names.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}
