package gbatch

import (
	"context"
	"encoding/json"
	"time"

	"gbatch/pkg/record"
)

// listLag bounds how late or out of order a job may appear in the list of jobs.
const listLag = time.Hour

// A jobList is what this run has seen in the list of jobs.
type jobList struct {
	ours   map[string]*operation // jobs with a display name of gbatch, by name
	active map[string]bool       // names of all jobs that had not ended yet
	// known is a creation time: all jobs created before it have been seen. It is
	// zero until the list was read completely, and also if the list is not sorted
	// newest first.
	known time.Time
}

// lookUp reads the whole list the first time. Later it reads only the part that
// it has not seen yet.
func (g *gemini) lookUp(ctx context.Context, p *payload) (found []*operation, active int, err error) {
	if err := g.readList(ctx); err != nil {
		return nil, 0, err
	}
	if len(g.listed.active) >= googleJobs && !g.listed.known.IsZero() { // some may have ended
		g.listed = jobList{}
		if err := g.readList(ctx); err != nil {
			return nil, 0, err
		}
	}
	for _, op := range g.listed.ours {
		if batch, hash, _, _ := parseLabel(op.display); batch == p.Batch || hash == p.hash {
			found = append(found, op)
		}
	}
	return found, len(g.listed.active), nil
}

func (g *gemini) readList(ctx context.Context) error {
	l := &g.listed
	if l.known.IsZero() {
		*l = jobList{ours: map[string]*operation{}, active: map[string]bool{}}
	}
	var newest, last time.Time
	sorted, whole := true, true
	err := g.jobs(ctx, func(page []*operation) (more bool, err error) {
		for _, op := range page {
			if (&record.Job{State: op.state}).Ended() {
				delete(l.active, op.name)
			} else {
				l.active[op.name] = true
			}
			if _, _, _, ok := parseLabel(op.display); ok {
				l.ours[op.name] = op
			}
			at := op.createdAt()
			sorted = sorted && !at.IsZero() && (last.IsZero() || !at.After(last))
			if last = at; newest.IsZero() {
				newest = at
			}
		}
		whole = !sorted || l.known.IsZero() || !last.Before(l.known)
		return whole, nil
	})
	if err == nil && whole {
		if l.known = newest.Add(-listLag); !sorted || newest.IsZero() {
			l.known = time.Time{}
		}
	}
	return err
}

func (g *gemini) jobs(ctx context.Context, each func([]*operation) (more bool, err error)) error {
	return listOf(ctx, g, "batches", "operations", decodeListed, each)
}

func (g *gemini) files(ctx context.Context, each func([]*storedFile) (more bool, err error)) error {
	return listOf(ctx, g, "files", "files", decodeFile, each)
}

// listOf calls each with the decoded pages of a list.
func listOf[T any](ctx context.Context, g *gemini, path, member string, decode func(item []byte, key string) (T, error), each func([]T) (more bool, err error)) error {
	return g.list(ctx, path, member, func(items []json.RawMessage) (more bool, err error) {
		page := make([]T, len(items))
		for i, item := range items {
			if page[i], err = decode(item, g.Secret); err != nil {
				return false, err
			}
		}
		return each(page)
	})
}
