package store

import (
	"log/slog"
	"time"

	"gbatch/pkg/ledger"
)

// noted sets the state of batches without a job from the intents of
// gbatch-submit on this machine.
func noted(batches []batchStatus) {
	jobless := map[string]*batchStatus{}
	for i := range batches {
		if b := &batches[i]; b.Job == "" && (b.Open || b.State == released) {
			jobless[b.Batch] = b
		}
	}
	if len(jobless) == 0 {
		return
	}
	notes, err := ledger.Look()
	if err != nil {
		slog.Warn("the intents of gbatch-submit cannot be read: a claimed batch may have a job", "error", err)
		return
	}
	marks := map[string]ledger.Mark{}
	for _, name := range notes.Names() {
		batch := ledger.Batch(name)
		if jobless[batch] == nil {
			continue
		}
		m, err := notes.Read(name)
		if err != nil {
			slog.Warn("an intent of gbatch-submit cannot be read: the batch may have a job", "batch", batch, "error", err)
		}
		marks[batch] = ledger.Farther(marks[batch], m)
	}
	for batch, m := range marks {
		switch b := jobless[batch]; {
		case m.Phase == ledger.Created:
			b.Job, b.State, b.SentAt = m.Job, "SUBMITTED", m.Time.UTC().Format(time.RFC3339)
		case m.Phase == ledger.Create && b.Open:
			b.State = "UNKNOWN"
		}
	}
}
