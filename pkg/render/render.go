// Package render turns chunks into the request lines of Google's batch files.
//
// Keys and texts are passed through as the JSON strings they already are:
// checked to the last byte, never decoded and encoded again.
package render

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strconv"
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// What holds where neither a header nor a flag says otherwise.
const (
	defaultModel    = "gemini-embedding-001"
	defaultDim      = 768
	defaultTaskType = "RETRIEVAL_DOCUMENT"
)

// maxDim is the longest vector Google's embedding models give. Shorter ones
// than the documented minimum of 128 are given too.
const maxDim = 3072

// ToJSONL is the command to-jsonl: chunks in, request lines out, with batch
// headers passed on. A flag left empty is what the batch's header says.
type ToJSONL struct {
	Model    string `help:"Model, where no header names one (default gemini-embedding-001)." placeholder:"NAME"`
	Dim      int    `help:"Values per vector, 1 to 3072, where no header says (default 768)." placeholder:"N"`
	TaskType string `help:"Task type, where there is no header (default RETRIEVAL_DOCUMENT; TASK_TYPE_UNSPECIFIED for none)." placeholder:"TYPE"`
	Shape    string `help:"Shape of the lines: rest, vertex or sdk." enum:"rest,vertex,sdk" default:"rest"`
}

// Run renders in to out, a line at a time. Memory is bounded by the longest
// line. Lines printed before an error in a batch do no harm: the count in the
// batch's header is then never met, and nothing of it is submitted.
func (c *ToJSONL) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	plain := space{c.Model, c.Dim, c.TaskType}.or(space{defaultModel, defaultDim, defaultTaskType})
	if err := plain.check(); err != nil {
		return exit.With(exit.Usage, err)
	}
	if c.Shape != "" && !slices.Contains(shapes, c.Shape) {
		return exit.With(exit.Usage, fmt.Errorf("unknown shape %q: use %s", c.Shape, strings.Join(shapes, ", ")))
	}
	w := ndjson.NewWriter(out)
	r := &run{
		ToJSONL: c,
		r:       ndjson.NewReader(in),
		w:       w,
		plain:   newForm(c.Shape, plain),
	}
	r.form = r.plain
	r.keys.reset()
	err := r.lines(ctx)
	if flushed := w.Flush(); err == nil {
		err = flushed
	}
	return err
}

// A run is one pass over a stream.
type run struct {
	*ToJSONL
	r     *ndjson.Reader
	w     *ndjson.Writer
	plain *form // of chunks without a header
	form  *form // of the batch at hand
	batch record.Header
	left  int // lines the batch still lacks
	keys  keys
}

func (r *run) lines(ctx context.Context) error {
	for {
		if !r.r.Buffered() {
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

// one handles a line: a chunk, or a header.
func (r *run) one(line []byte) error {
	var m members
	if err := ndjson.Object(line, m.set); err != nil {
		return r.r.Errorf("%w", err)
	}
	switch {
	case m.id != nil:
		return r.chunk(&m)
	case m.count != nil:
		return r.header(line, &m)
	}
	return r.r.Errorf("no id: a chunk has id and text, a batch header has count")
}

// chunk prints the request for one chunk.
func (r *run) chunk(m *members) error {
	id, key, err := key(m.id)
	if err != nil {
		return r.r.Errorf("%w", err)
	}
	if bytes.HasPrefix(key, []byte(record.CanaryPrefix)) {
		return r.r.Errorf("key %.100q: ids that begin with %s are reserved: give the chunk another id", key, record.CanaryPrefix)
	}
	if first, twice := r.keys.add(key, r.r.Line()); twice {
		return r.r.Errorf("key %.100q is on line %d too: a batch takes each id once", key, first)
	}
	var fields [3][]byte // text, title, context; their insides, nil where empty
	for i, tok := range [...][]byte{m.text, m.title, m.context} {
		if fields[i], err = inside(tok); err != nil {
			return r.r.Errorf("key %.100q: %s %w", key, [...]string{"text", "title", "context"}[i], err)
		}
	}
	text, title := fields[0], fields[1]
	if fields[2] != nil {
		text = fields[2]
	}
	switch {
	case text != nil:
	case m.text == nil:
		return r.r.Errorf("key %.100q: no text: a chunk has id and text", key)
	default:
		return r.r.Errorf("key %.100q: the text is empty: leave the chunk out or give it text", key)
	}
	err = r.w.End(r.form.append(r.w.Begin(), id, text, title))
	if r.left > 0 {
		if r.left--; r.left == 0 {
			r.close()
		}
	}
	return err
}

// header starts a batch and passes its header on, with the model and dim it
// may lack.
func (r *run) header(line []byte, m *members) error {
	if err := r.whole("the next header came"); err != nil {
		return err
	}
	h, err := m.header()
	if err != nil {
		return r.r.Errorf("%w", err)
	}
	said, flags := space{h.Model, h.Dim, h.TaskType}, space{r.Model, r.Dim, r.TaskType}
	if name, ok := flags.without(environment()).conflict(said); ok {
		return exit.With(exit.Usage, r.r.Errorf("the header of batch %.100q says another %s than --%[2]s: leave the flag out", h.Batch, name))
	}
	full := said.or(flags).or(space{defaultModel, defaultDim, ""})
	full.taskType = said.taskType // none is a word too: the batch was claimed so
	if err := full.check(); err != nil {
		return r.r.Errorf("batch %.100q: %w", h.Batch, err)
	}
	if said == full {
		err = r.w.Write(line)
	} else {
		h.Model, h.Dim = full.model, full.dim
		err = r.w.Encode(h)
	}
	r.form, r.batch, r.left = newForm(r.Shape, full), h, h.Count
	r.keys.reset()
	if r.left == 0 {
		r.close()
	}
	return err
}

// whole returns an error if the batch at hand lacks lines.
func (r *run) whole(but string) error {
	if r.left == 0 {
		return nil
	}
	return r.r.Errorf("batch %.100q: %d of %d chunks had come when %s: run the command that prints them again", r.batch.Batch, r.batch.Count-r.left, r.batch.Count, but)
}

// close leaves the batch: chunks that follow have no header.
func (r *run) close() {
	r.form = r.plain
	r.keys.reset()
}

// members are the raw values of one line, nil where there is none or null.
type members struct {
	id, text, title, context           []byte
	batch, count, model, dim, taskType []byte
}

func (m *members) set(name, value []byte) error {
	if value[0] == 'n' {
		return nil
	}
	switch string(name) {
	case "id":
		m.id = value
	case "text":
		m.text = value
	case "title":
		m.title = value
	case "context":
		m.context = value
	case "batch":
		m.batch = value
	case "count":
		m.count = value
	case "model":
		m.model = value
	case "dim":
		m.dim = value
	case "task_type":
		m.taskType = value
	}
	return nil
}

func (m *members) header() (h record.Header, err error) {
	for _, s := range []struct {
		name string
		to   *string
		tok  []byte
	}{{"batch", &h.Batch, m.batch}, {"model", &h.Model, m.model}, {"task_type", &h.TaskType, m.taskType}} {
		if s.tok == nil {
			continue
		}
		if *s.to, err = ndjson.String(s.tok); err != nil {
			return h, fmt.Errorf("header: %s: %w", s.name, err)
		}
	}
	if h.Batch == "" {
		return h, errors.New("a header without the name of its batch")
	}
	if h.Count, err = strconv.Atoi(string(m.count)); err != nil || h.Count < 0 {
		return h, fmt.Errorf("header of batch %.100q: count is %.20s, not a number of lines", h.Batch, m.count)
	}
	if m.dim != nil {
		if h.Dim, err = strconv.Atoi(string(m.dim)); err != nil || h.Dim == 0 {
			return h, fmt.Errorf("header of batch %.100q: dim is %.20s, not a number of values from 1 to %d", h.Batch, m.dim, maxDim)
		}
	}
	return h, nil
}

// key returns the id as it stands between its quotes, and what it stands for.
// A whole number counts as the string of its digits.
func key(tok []byte) (id, key []byte, err error) {
	switch c := tok[0]; {
	case c == '"':
		id = tok[1 : len(tok)-1]
		key = id
		if bytes.IndexByte(id, '\\') >= 0 {
			s, err := ndjson.String(tok)
			return id, []byte(s), err
		}
	case c == '-' || '0' <= c && c <= '9':
		if bytes.ContainsAny(tok, ".eE") {
			return nil, nil, fmt.Errorf("id is %.30s, not a whole number: write it as a string", tok)
		}
		id, key = tok, tok
	default:
		return nil, nil, fmt.Errorf("id is %.30s, not a string", tok)
	}
	if len(id) == 0 {
		return nil, nil, errors.New("the id is empty: give the chunk one")
	}
	return id, key, nil
}

// inside returns what stands between a string's quotes, nil for nothing.
func inside(tok []byte) ([]byte, error) {
	switch {
	case tok == nil:
		return nil, nil
	case tok[0] != '"':
		return nil, fmt.Errorf("is %.30s, not a string", tok)
	case len(tok) == 2:
		return nil, nil
	}
	return tok[1 : len(tok)-1], nil
}

// maxKeys bounds the memory of keys, to about 6 MB.
const maxKeys = 1 << 17

// keys knows the keys of a batch, by 128-bit hashes with random seeds: the
// odds that two different keys of a batch share one are below 10^-28, so it
// is taken for the key. In a batch of more than maxKeys, or without headers,
// keys are compared within each maxKeys lines; the whole batch is checked
// again where it is submitted.
type keys struct {
	seeds [2]maphash.Seed
	lines map[[2]uint64]int
}

func (k *keys) reset() {
	if k.lines == nil {
		k.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	}
	if k.lines == nil || len(k.lines) > 1000 { // clear takes as long as the map once was large
		k.lines = make(map[[2]uint64]int)
		return
	}
	clear(k.lines)
}

// add notes the line of key, and says where it was before.
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
