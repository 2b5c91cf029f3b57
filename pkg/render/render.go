// Package render turns chunks into the request lines of Google's batch files.
//
// Keys and texts are copied as the JSON strings that they already are. They are
// checked completely, but not decoded and encoded again.
package render

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

// ToJSONL is the command to-jsonl: it reads chunks and prints request lines, and
// passes batch headers on.
type ToJSONL struct {
	cli.Files  `embed:""`
	cli.Output `embed:""`
	SpaceFlags `embed:""`
	Shape      string `help:"Form of the request lines: rest, vertex or sdk. The default is rest, and vertex with --backend vertex." enum:"rest,vertex,sdk," default:""`
	Backend    string `help:"The service that the requests are for: gemini (the Gemini API) or vertex (Vertex AI)." enum:"gemini,vertex" default:"gemini"`
}

// Run renders in to out, one line at a time. Memory is bounded by the longest
// line. Lines that were printed before an error in a batch do no harm: the batch
// has fewer requests than its header says, so nothing of it is submitted.
func (c *ToJSONL) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	plain, err := c.Plain()
	if err != nil {
		return err
	}
	shape := cmp.Or(c.Shape, "rest")
	if c.Backend == model.Vertex {
		if shape = cmp.Or(c.Shape, "vertex"); shape != "vertex" {
			return exit.Errorf(exit.Usage, "--shape %s is not for --backend vertex, which needs the shape vertex", shape)
		}
	}
	if !slices.Contains(shapes, shape) {
		return exit.With(exit.Usage, fmt.Errorf("unknown shape %q: use %s", c.Shape, strings.Join(shapes, ", ")))
	}
	w := ndjson.NewWriter(out)
	r := &run{
		ToJSONL: c,
		r:       ndjson.NewReader(in),
		w:       w,
		shape:   shape,
		plain:   newForm(shape, false, plain),
	}
	r.form = r.plain
	r.keys.reset()
	err = r.lines(ctx)
	if flushed := w.Flush(); err == nil {
		err = flushed
	}
	return err
}

// A run is one pass over the input.
type run struct {
	*ToJSONL
	r     *ndjson.Reader
	w     *ndjson.Writer
	shape string
	plain *form // for chunks without a header
	form  *form // for the present batch
	batch record.Header
	left  int // lines that are missing in the present batch
	keys  keys
	chunk record.RawChunk // of the present line
}

func (r *run) lines(ctx context.Context) error {
	count := progress.Of(ctx).Flow("lines")
	defer func() { count.Set(int64(r.r.Line())) }()
	for {
		if !r.r.Buffered() {
			count.Set(int64(r.r.Line()))
			if err := r.w.Flush(); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		line, err := r.r.Next()
		if err == io.EOF {
			return r.whole("the input ended")
		}
		if err != nil {
			return err
		}
		if err := r.one(line); err != nil {
			return err
		}
	}
}

// one handles one line: a chunk or a header.
func (r *run) one(line []byte) error {
	var h record.Header
	header, err := r.chunk.Parse(line, &h)
	switch {
	case err != nil:
		return r.r.Errorf("%w", err)
	case header:
		return r.header(line, h)
	case r.chunk.End:
		return r.whole("the chunks ended")
	}
	if first, twice := r.keys.add(r.chunk.Key, r.r.Line()); twice {
		return r.r.Errorf("key %.100q is also on %s: a batch may have each id only once", r.chunk.Key, r.r.Place(first))
	}
	err = r.w.End(r.form.append(r.w.Begin(), &r.chunk))
	if r.left > 0 {
		if r.left--; r.left == 0 {
			r.close()
		}
	}
	return err
}

// header starts a batch and passes its header on. It adds the model and the dim
// if they are missing.
func (r *run) header(line []byte, h record.Header) error {
	if err := r.whole("the next header came"); err != nil {
		return err
	}
	full, err := r.Of(h.Space(), fmt.Sprintf("batch %.100q", h.Batch))
	if err != nil {
		return exit.With(exit.Code(err), r.r.Errorf("%w", err))
	}
	if h.Space() == full {
		err = r.w.Write(line)
	} else {
		h.Model, h.Dim = full.Model, full.Dim
		err = r.w.Encode(h)
	}
	r.form, r.batch, r.left = newForm(r.shape, true, full), h, h.Count
	r.keys.reset()
	if r.left == 0 {
		r.close()
	}
	return err
}

// whole returns an error if lines of the present batch are missing.
func (r *run) whole(but string) error {
	if r.left == 0 {
		return nil
	}
	return r.r.Errorf("batch %.100q: %d of %d chunks had come when %s: run the command that prints them again", r.batch.Batch, r.batch.Count-r.left, r.batch.Count, but)
}

// close ends the present batch: the chunks that follow have no header.
func (r *run) close() {
	r.form = r.plain
	r.keys.reset()
}

// maxKeys limits the memory of keys to about 6 MB.
const maxKeys = 1 << 17

// keys stores the keys of a batch as 128-bit hashes with random seeds. The
// probability that two different keys of a batch have the same hash is below
// 10^-28, so the hash stands for the key. In a batch of more than maxKeys lines,
// or without headers, keys are compared only within each maxKeys lines;
// gbatch-submit checks the whole batch again.
type keys struct {
	seeds [2]maphash.Seed
	lines map[[2]uint64]int
}

func (k *keys) reset() {
	if k.lines == nil {
		k.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	}
	if k.lines == nil || len(k.lines) > 1000 { // clear is slow for a map that was large
		k.lines = make(map[[2]uint64]int)
		return
	}
	clear(k.lines)
}

// add records the line of key. If the key was seen before, it returns the line
// of that.
func (k *keys) add(key []byte, line int) (first int, twice bool) {
	if len(k.lines) == maxKeys {
		k.reset()
	}
	h := [2]uint64{maphash.Bytes(k.seeds[0], key), maphash.Bytes(k.seeds[1], key)}
	if first, twice = k.lines[h]; !twice {
		k.lines[h] = line
	}
	return first, twice
}
