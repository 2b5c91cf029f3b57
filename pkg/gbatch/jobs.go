package gbatch

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// A task is a job and its service.
type task struct {
	*record.Job
	at backend
}

// readAhead is how many jobs are read before they are handled, so that the
// progress knows how many there are.
const readAhead = 1000

// readJobs reads job records as they arrive. It calls seen with each job, and
// with nil at the end. After the channel is closed, the error says why the
// reading ended.
func readJobs(ctx context.Context, in io.Reader, services *backends, seen func(*record.Job)) (<-chan task, *error) {
	jobs, failed := make(chan task, readAhead), new(error)
	go func() {
		defer close(jobs)
		defer seen(nil)
		for r := ndjson.NewReader(in); ; {
			line, err := r.Next()
			if err == io.EOF {
				return
			}
			var t task
			if err == nil {
				if t, err = readJob(line, services); err != nil {
					err = r.Errorf("%w", err)
				}
			}
			if err != nil {
				*failed = err
				return
			}
			seen(t.Job)
			select {
			case jobs <- t:
			case <-ctx.Done():
				return
			}
		}
	}()
	return jobs, failed
}

func readJob(line []byte, services *backends) (task, error) {
	job, err := record.ParseJob(line)
	if err != nil {
		return task{}, err
	}
	if job == nil {
		job = new(record.Job)
	}
	at, err := services.of(job)
	return task{job, at}, err
}

// until yields the values of c until the channel is closed or ctx has ended. It
// does not wait for the sender, which may hang in a read.
func until[T any](ctx context.Context, c <-chan T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			select {
			case v, ok := <-c:
				if !ok || !yield(v) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// count formats a number of things, such as 1 job or 19,758 keys.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return commas(n) + " " + thing
}

func commas(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// few joins the first of some names.
func few(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return strings.Join(names[:most], " ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, " ")
}

// giveBack says how the chunks of batches are submitted again whose results
// cannot be had. Jobs that were submitted by hand have no batch, "".
func giveBack(batches ...string) string {
	batches = slices.DeleteFunc(slices.Clone(batches), func(b string) bool { return b == "" })
	if len(batches) == 0 {
		return ""
	}
	others := ""
	if len(batches) > 1 {
		others = " …"
	}
	return "; if the key is right, nothing can be collected: chunks-release DB --force " + batches[0] + others + " makes the chunks pending again, and the next run pays for them again"
}
