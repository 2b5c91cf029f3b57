package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"

	"gbatch/pkg/duck"
	"gbatch/pkg/model"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

// Lines are printed in pieces of about pieceSize bytes, of which there are pieces:
// one is written while the others are read.
const (
	pieceSize = 4 << 20
	pieces    = 4
)

// lineOverhead is what a line has around its texts, in bytes.
const lineOverhead = 64

// A piece is a part of the output, and how many chunks and batches end in it.
type piece struct {
	lines           []byte
	chunks, batches int
}

// A printer reads the lines of claimed batches from the outbox.
type printer struct {
	*Pending
	full    chan piece
	free    chan []byte
	headers []*record.Header // nil if the batch is not printed
	items   []item           // in the order of seq
	next    int              // index of the first item that was not read yet
	broken  int              // batches that no later command would take: this version claims none, an older one did
}

// An item is a chunk in the outbox.
type item struct {
	seq   int64
	batch int // index of its header
	bytes int
}

// errFull ends a transaction when all pieces wait for the writer.
var errFull = errors.New("the writer is slower")

// print writes batches to out, and returns how many of them cannot be sent. It
// reads the database while it writes. While out blocks, the file is not held.
func (p *Pending) print(ctx context.Context, out io.Writer, batches []string) (broken int, _ error) {
	if len(batches) == 0 {
		return 0, nil
	}
	printed, chunks := progress.Of(ctx).Count("batches"), progress.Of(ctx).Flow("chunks")
	ctx, cancel := context.WithCancel(ctx)
	r := &printer{Pending: p, full: make(chan piece, pieces), free: make(chan []byte, pieces)}
	for range pieces {
		r.free <- nil
	}
	var failed error
	go func() {
		defer close(r.full)
		failed = r.run(ctx, batches)
	}()
	defer func() {
		cancel()
		for range r.full {
		}
	}()
	for next := range r.full {
		if _, err := out.Write(next.lines); err != nil {
			return 0, err
		}
		printed.Add(int64(next.batches))
		chunks.Add(int64(next.chunks))
		r.free <- next.lines
	}
	return r.broken, cmp.Or(failed, context.Cause(ctx))
}

// run reads all pieces. It closes the database as long as no buffer is free.
func (r *printer) run(ctx context.Context, batches []string) error {
	bufs := make([][]byte, 0, pieces)
	for {
		for len(bufs) < pieces {
			select {
			case buf := <-r.free:
				bufs = append(bufs, buf)
			case <-ctx.Done():
				return nil
			}
		}
		err := transact(ctx, &r.Database, duck.Read, func(c *duck.Conn) error {
			if err := r.open(c, batches); err != nil {
				return err
			}
			for r.skip() {
				if len(bufs) == 0 {
					select {
					case buf := <-r.free:
						bufs = append(bufs, buf)
					default:
						return errFull
					}
				}
				last := len(bufs) - 1
				next, err := r.piece(c, bufs[last][:0])
				if err != nil {
					return err
				}
				bufs = bufs[:last]
				r.full <- next // never waits: there are not more buffers
			}
			return nil
		})
		if err != errFull {
			return err
		}
	}
}

// open lists the batches and their items, when the database is opened first.
// Later it leaves out batches that have a job by now.
func (r *printer) open(c *duck.Conn, batches []string) error {
	found := map[string]outgoing{}
	err := c.Each(func(row *duck.Rows) {
		h := &record.Header{Batch: row.Text(0), Count: int(row.Int(1)), Model: row.Text(2), Dim: int(row.Int(3)), TaskType: row.Text(4), Tokens: row.Int(5), TokensMax: row.Int(6)}
		found[h.Batch] = outgoing{h, row.Int(7), row.Int(8)}
	}, "SELECT batch, requests, model, dim, task_type, tokens_likely, tokens_max, first_seq, last_seq FROM gbatch.jobs WHERE job IS NULL AND closed_at IS NULL")
	if err != nil {
		return err
	}
	if r.items == nil {
		return r.list(c, batches, found)
	}
	for i, h := range r.headers {
		if h != nil && found[h.Batch].header == nil && !r.begun(i) {
			r.headers[i] = nil
		}
	}
	return nil
}

// begun reports whether a part of a batch was read already.
func (r *printer) begun(batch int) bool { return r.next > 0 && r.items[r.next-1].batch == batch }

// An outgoing batch has items from first to last.
type outgoing struct {
	header      *record.Header
	first, last int64
}

// list sets headers and items.
func (r *printer) list(c *duck.Conn, batches []string, found map[string]outgoing) error {
	index := map[string]int{}
	low, high, n := int64(math.MaxInt64), int64(-1), int64(0)
	for i, name := range batches {
		if b, ok := found[name]; ok {
			index[name] = i
			low, high = min(low, b.first), max(high, b.last)
			n += b.last - b.first + 1
		}
	}
	r.items = slices.Grow(r.items, int(n))
	r.headers = make([]*record.Header, len(batches)+1) // the last one is for all other batches
	keys, counts := make([]record.KeySum, len(r.headers)), make([]int, len(r.headers))
	batch, name := len(batches), ""
	var b outgoing
	err := c.Each(func(row *duck.Rows) {
		if row.Borrow(1) != name {
			name = row.Text(1)
			var ok bool
			if batch, ok = index[name]; !ok {
				batch = len(batches)
			}
			b = found[name]
		}
		seq := row.Int(0)
		if seq >= b.first && seq <= b.last {
			keys[batch].Add(row.Borrow(2))
			counts[batch]++
		}
		r.items = append(r.items, item{seq, batch, int(row.Int(3))})
	}, fmt.Sprintf("SELECT seq, batch, chunk_id, strlen(text) + strlen(coalesce(title, '')) FROM gbatch.items WHERE NOT twin AND seq BETWEEN %d AND %d", low, high))
	if err != nil {
		return err
	}
	slices.SortFunc(r.items, func(a, b item) int { return cmp.Compare(a.seq, b.seq) })
	for i, name := range batches {
		h := found[name].header
		if h == nil {
			continue // it has a job by now
		}
		_, err := (model.Space{Model: h.Model, Dim: h.Dim, TaskType: h.TaskType}).Checked()
		if err == nil && counts[i] != h.Count {
			err = fmt.Errorf("it has %d requests, and its header would announce %d", counts[i], h.Count)
		}
		if err != nil {
			r.broken++
			slog.Warn("a batch cannot be sent: its chunks stay claimed", "batch", name, "error", err)
			continue
		}
		h.Keys = keys[i].String()
		r.headers[i] = h
	}
	return nil
}

// skip moves on to the next item that is printed, if there is one.
func (r *printer) skip() bool {
	for r.next < len(r.items) && r.headers[r.items[r.next].batch] == nil {
		r.next++
	}
	return r.next < len(r.items)
}

// piece appends the lines of the next items to buf. DuckDB's threads may have
// written items out of order. Their lines are sorted here, because DuckDB takes
// longer to sort rows with texts.
func (r *printer) piece(c *duck.Conn, buf []byte) (p piece, err error) {
	first, size := r.next, 0
	for r.next < len(r.items) && r.headers[r.items[r.next].batch] != nil && (size == 0 || size+r.items[r.next].bytes < pieceSize) {
		size += r.items[r.next].bytes + lineOverhead
		r.next++
	}
	buf = slices.Grow(buf, size+size/8+lineOverhead) // an eighth more, for escapes
	rows, err := c.Query(fmt.Sprintf("SELECT seq, chunk_id, text, title FROM gbatch.items WHERE NOT twin AND seq BETWEEN %d AND %d", r.items[first].seq, r.items[r.next-1].seq))
	if err != nil {
		return p, err
	}
	defer rows.Close()
	type block struct{ item, start, end int }
	var blocks []block
	for i := first - 1; rows.Next(); p.chunks++ {
		if i++; i == r.next || len(blocks) == 0 || r.items[i].seq != rows.Int(0) {
			i, _ = slices.BinarySearchFunc(r.items[:r.next-1], rows.Int(0), func(it item, seq int64) int { return cmp.Compare(it.seq, seq) })
			blocks = append(blocks, block{item: i, start: len(buf)})
		}
		h := r.headers[r.items[i].batch]
		if i == 0 || r.headers[r.items[i-1].batch] != h {
			buf = record.AppendHeader(buf, *h)
		}
		buf = record.AppendChunk(buf, rows.Borrow(1), rows.Borrow(2), rows.Borrow(3))
		if i+1 == len(r.items) || r.headers[r.items[i+1].batch] != h {
			p.batches++
		}
		blocks[len(blocks)-1].end = len(buf)
	}
	if p.chunks != r.next-first {
		return p, fmt.Errorf("batch %s was closed by another process while it was printed: run the pipe again", r.headers[r.items[first].batch].Batch)
	}
	p.lines = buf
	if byItem := func(a, b block) int { return cmp.Compare(a.item, b.item) }; !slices.IsSortedFunc(blocks, byItem) {
		slices.SortFunc(blocks, byItem)
		p.lines = make([]byte, 0, cap(buf))
		for _, b := range blocks {
			p.lines = append(p.lines, buf[b.start:b.end]...)
		}
	}
	return p, nil
}
