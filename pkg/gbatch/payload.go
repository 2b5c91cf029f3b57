package gbatch

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/maphash"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// maxPayload is Google's limit for an input file
// (ai.google.dev/gemini-api/docs/batch-api).
const maxPayload = 2e9

func canaryKey(i int, key string) string { return record.CanaryPrefix + strconv.Itoa(i) + ":" + key }

// canaryOf returns the key that a canary repeats.
func canaryOf(key string) (original string, ok bool) {
	if key, ok = strings.CutPrefix(key, record.CanaryPrefix); !ok {
		return "", false
	}
	_, original, _ = strings.Cut(key, ":")
	return original, true
}

// A payload is a batch as it is sent: its request lines in a file that no
// name leads to any more, so that nothing is left whatever ends the process.
type payload struct {
	record.Header // Count is how many lines there are; Batch is empty where there was no header
	hash          string
	canary        int
	file          *os.File
	size          int64
}

func (p *payload) close() { p.file.Close() }

// name is the display name of a submission: of all jobs of a project only a
// job for the same lines of the same batch has it.
func (p *payload) name() string {
	name := "gbatch-" + p.hash
	if p.Batch != "" {
		name = "gbatch-" + p.Batch + "-" + p.hash
	}
	return name
}

// label is name, with how many canaries are in the file.
func (p *payload) label() string {
	if p.canary > 0 {
		return p.name() + "-c" + strconv.Itoa(p.canary)
	}
	return p.name()
}

func (p *payload) String() string {
	if p.Batch == "" {
		return strings.TrimSpace("the batch without a header " + p.hash)
	}
	return "batch " + p.Batch
}

func (p *payload) reader() io.Reader { return io.NewSectionReader(p.file, 0, p.size) }

var labels = regexp.MustCompile(`^gbatch-(?:(.+)-)?([0-9a-f]{16})(?:-c([0-9]{1,9}))?$`)

// parseLabel takes a label apart again.
func parseLabel(s string) (batch, hash string, canary int, ok bool) {
	m := labels.FindStringSubmatch(s)
	if m == nil {
		return "", "", 0, false
	}
	canary, _ = strconv.Atoi(m[3])
	return m[1], m[2], canary, true
}

var names = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// isName reports whether a name of a batch is safe in a file name, a
// display name and a URL.
func isName(s string) bool { return len(s) <= 128 && names.MatchString(s) }

// A cutter reads headers and requests and cuts them into payloads.
type cutter struct {
	*Submit
	in      *ndjson.Reader
	pending *record.Header // a header that was read, its lines not yet
	held    *request       // a request that did not fit into the last payload
	seed    maphash.Seed
}

func newCutter(s *Submit, in io.Reader) *cutter {
	return &cutter{Submit: s, in: ndjson.NewReader(in), seed: maphash.MakeSeed()}
}

// A request is one line of a batch.
type request struct {
	line []byte
	key  string
	dim  int // that it asks for; 0: does not say
}

// next returns the next payload, or io.EOF. The caller closes it.
func (c *cutter) next() (*payload, error) {
	for {
		if c.held == nil && c.pending == nil {
			if err := c.scan(false); err != nil {
				return nil, err
			}
		}
		p := &payload{Header: record.Header{Model: c.Model}}
		if c.pending != nil {
			p.Header, c.pending = *c.pending, nil
		}
		w, err := newSpool()
		if err != nil {
			return nil, err
		}
		p.file = w.file
		if err = c.fill(p, w); err == nil {
			if err = w.w.Flush(); err == nil {
				p.hash, p.size = hex.EncodeToString(w.hash.Sum(nil))[:16], w.size
				err = p.addCanaries(min(c.Canary, p.Count), w.ends)
			}
		}
		if err == nil && p.Count > 0 {
			return p, nil
		}
		p.close()
		if err != nil {
			return nil, err
		}
	}
}

// fill spools requests: those that p's header announced, or, without one, as
// many as the limits allow.
func (c *cutter) fill(p *payload, w *spool) error {
	headed, announced := p.Batch != "", p.Count
	p.Count = 0
	keys := make(map[uint64]struct{})
	for !headed || p.Count < announced {
		if c.held == nil {
			if err := c.scan(headed); err != nil && err != io.EOF {
				return err
			}
		}
		if c.held == nil { // the end, or the next header
			if !headed {
				return nil
			}
			if c.AllowPartial {
				slog.Warn("a batch is cut short and submitted as it is", "batch", p.Batch, "requests", p.Count, "announced", announced)
				return nil
			}
			return c.in.Errorf("%s has %d requests where its header says %d: a command before this one ended early, nothing of the batch is sent; run the line again", p, p.Count, announced)
		}
		r := c.held
		grown := w.size + int64(len(r.line)) + 1
		if !headed && p.Count > 0 && (p.Count >= c.MaxRequests || grown > int64(c.MaxBytes)) {
			return nil
		}
		c.held = nil
		if grown > maxPayload {
			return exit.Errorf(exit.Refused, "line %d: %s is larger than 2 GB, google's limit for an input file: cut smaller batches", c.in.Line(), p)
		}
		// A chance collision of the hashes refuses a good line once in 10^13;
		// the seed is another one in the next run.
		h := maphash.String(c.seed, r.key)
		if _, twice := keys[h]; twice {
			return c.in.Errorf("key %q twice in %s", r.key, p)
		}
		keys[h] = struct{}{}
		if !headed {
			if p.Count == 0 {
				p.Dim = r.dim
			} else if p.Dim != r.dim {
				return c.in.Errorf("key %q asks for dim %d, its batch for %d: keep them apart", r.key, r.dim, p.Dim)
			}
		}
		p.Count++
		if err := w.line(r.line, c.Canary > 0); err != nil {
			return err
		}
	}
	return nil
}

// scan reads one line into pending or held. Below a header, what a request
// asks for is the header's to say.
func (c *cutter) scan(headed bool) error {
	line, err := c.in.Next()
	if err != nil {
		return err
	}
	var key, req []byte
	var isHeader bool
	err = ndjson.Object(line, func(name, value []byte) error {
		switch string(name) {
		case "count":
			isHeader = true
		case "key":
			key = value
		case "request":
			req = value
		}
		return nil
	})
	if err != nil {
		return c.in.Errorf("%w", err)
	}
	if req == nil && isHeader {
		return c.header(line)
	}
	if req == nil || req[0] != '{' {
		return c.in.Errorf("neither a batch header nor a request")
	}
	r := &request{line: line}
	if r.key, err = ndjson.String(key); err != nil || r.key == "" {
		return c.in.Errorf("a request without a key, which is a string that is not empty")
	}
	if strings.HasPrefix(r.key, record.CanaryPrefix) {
		return c.in.Errorf("key %q: %s is reserved", r.key, record.CanaryPrefix)
	}
	if !headed {
		if r.dim, err = askedDim(req); err != nil {
			return c.in.Errorf("key %q: %w", r.key, err)
		}
	}
	c.held = r
	return nil
}

func (c *cutter) header(line []byte) error {
	h := new(record.Header)
	if err := ndjson.Unmarshal(line, h); err != nil {
		return c.in.Errorf("batch header: %w", err)
	}
	name, err := model.Name(cmp.Or(h.Model, c.Model))
	if err != nil {
		return c.in.Errorf("batch %.100q: %w", h.Batch, err)
	}
	switch h.Model = name; {
	case !isName(h.Batch):
		return c.in.Errorf("batch %q: a name is 1 to 128 letters, digits, dots, dashes and underscores", h.Batch)
	case h.Count < 0 || h.Dim < 0:
		return c.in.Errorf("batch %s: a count or dim below zero", h.Batch)
	}
	c.pending = h
	return nil
}

// askedDim is the length of vector that a request asks for, at its top level
// or in embedContentConfig, in either spelling of proto JSON.
func askedDim(req []byte) (dim int, err error) {
	err = ndjson.Object(req, func(name, value []byte) (err error) {
		switch string(name) {
		case "outputDimensionality", "output_dimensionality":
			if dim, err = strconv.Atoi(string(value)); err != nil {
				return fmt.Errorf("%s is not a number", name)
			}
		case "embedContentConfig", "embed_content_config":
			var inner int
			if inner, err = askedDim(value); inner > 0 {
				dim = inner
			}
		}
		return err
	})
	return dim, err
}

// A spool is where a payload is written.
type spool struct {
	file *os.File
	w    *bufio.Writer
	hash hash.Hash
	size int64
	ends []int64 // where each line ends
}

func newSpool() (*spool, error) {
	f, err := nameless()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	return &spool{file: f, w: bufio.NewWriterSize(io.MultiWriter(f, h), 64<<10), hash: h}, nil
}

// nameless makes a file that no name leads to. Where there is none that never
// had a name, a process that is killed in between leaves one behind.
func nameless() (*os.File, error) {
	if neverNamed != 0 {
		if f, err := os.OpenFile(os.TempDir(), os.O_RDWR|neverNamed, 0o600); err == nil {
			return f, nil
		}
	}
	f, err := os.CreateTemp("", "gbatch-*") // with mode 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *spool) line(line []byte, ends bool) error {
	s.w.Write(line)
	s.size += int64(len(line)) + 1
	if ends {
		s.ends = append(s.ends, s.size)
	}
	return s.w.WriteByte('\n')
}

// addCanaries rewrites the file with n of its lines, evenly spread, repeated
// half the file away from where they are.
func (p *payload) addCanaries(n int, ends []int64) error {
	if n <= 0 {
		return nil
	}
	after := make(map[int][]byte) // canary lines by the line they come behind
	for i := range n {
		at := i * p.Count / n
		line := make([]byte, ends[at]-start(ends, at))
		if _, err := p.file.ReadAt(line, start(ends, at)); err != nil {
			return err
		}
		line, err := canaryLine(i, line)
		if err != nil {
			return err
		}
		after[(at+p.Count/2)%p.Count] = line
	}
	w, err := newSpool()
	if err != nil {
		return err
	}
	var from int64
	for i, end := range ends {
		line, ok := after[i]
		if !ok {
			continue
		}
		io.Copy(w.w, io.NewSectionReader(p.file, from, end-from))
		w.size += end - from
		w.line(line, false)
		from = end
	}
	io.Copy(w.w, io.NewSectionReader(p.file, from, p.size-from))
	w.size += p.size - from
	if err := w.w.Flush(); err != nil { // a bufio.Writer keeps its first error
		w.file.Close()
		return err
	}
	p.file.Close()
	p.file, p.size, p.canary = w.file, w.size, n
	return nil
}

func start(ends []int64, i int) int64 {
	if i == 0 {
		return 0
	}
	return ends[i-1]
}

// canaryLine is a request line under the key of canary i.
func canaryLine(i int, line []byte) ([]byte, error) {
	var key, req []byte
	err := ndjson.Object(bytes.TrimSpace(line), func(name, value []byte) error {
		switch string(name) {
		case "key":
			key = value
		case "request":
			req = value
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	original, err := ndjson.String(key)
	if err != nil {
		return nil, err
	}
	out := ndjson.AppendString([]byte(`{"key":`), canaryKey(i, original))
	out = append(append(out, `,"request":`...), req...)
	return append(out, '}'), nil
}

// cut reads payloads ahead of their submission, one and no more, and hands
// them over. The error that ended the reading is there once the channel is
// closed.
func (c *cutter) cut(ctx context.Context) (<-chan *payload, *error) {
	payloads, failed := make(chan *payload), new(error)
	go func() {
		defer close(payloads)
		for {
			p, err := c.next()
			if err != nil {
				if err != io.EOF {
					*failed = err
				}
				return
			}
			select {
			case payloads <- p:
			case <-ctx.Done():
				p.close()
				return
			}
		}
	}()
	return payloads, failed
}
