package gbatch

import (
	"context"
	"time"
)

// A ledger holds how far the submission of each batch has come. Its first form
// is a folder of files, for one machine. The interface also fits an object in a
// bucket, which many machines share and of which a process holds a lease.
type ledger interface {
	// claim opens the entry of a batch and holds it, so that no other process
	// submits the same batch. It waits while another process holds the entry,
	// but not longer than patience: then the exit code is 5.
	claim(ctx context.Context, name string, patience time.Duration) (entry, error)
}

// An entry is the ledger's knowledge of one batch. One process holds it at a
// time.
type entry interface {
	// mark is what was set last, by this process or an earlier one. It is zero
	// if nothing was begun.
	mark() mark
	// set replaces the mark, and returns when the new one is durable. An error
	// means that this process may not hold the entry any more, and must not do
	// what the mark announces.
	set(ctx context.Context, m mark) error
	// forget makes close remove the entry: nothing is left to remember.
	forget()
	// close gives the entry up.
	close()
}

// The phases of a submission. Each is set before what it names is done.
const (
	phaseUpload  = "upload"  // nothing was created; an uploaded file may lie at Google
	phaseCreate  = "create"  // a create may have been sent: whether there is a job is not known
	phaseCreated = "created" // there is a job, and its name is known: a receipt
)

// A mark says how far a submission has come.
type mark struct {
	Name     string    `json:"name"` // the job's display name
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

// mark is what to set for a phase of p's submission.
func (p *payload) mark(phase, input, job string) mark {
	return mark{Name: p.name(), Batch: p.Batch, SHA256: p.hash, Requests: p.Count, Phase: phase, Input: input, Job: job}
}
