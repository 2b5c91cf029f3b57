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
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

// maxPayload is the limit of the Gemini API for an input file
// (ai.google.dev/gemini-api/docs/batch-api).
const maxPayload = 2e9

// checkSize returns an error if the service does not take a payload of so many lines
// and bytes.
func (c *cutter) checkSize(p *payload, lines int, size int64) error {
	large, many := int64(maxPayload), math.MaxInt
	if c.Backend == model.Vertex {
		most := model.LimitsOf(c.Backend)
		large, many = most.Bytes, most.Requests
	}
	with := ""
	if p.canary > 0 {
		with = fmt.Sprintf(" with its %d canaries", p.canary)
	}
	switch {
	case size > large:
		return exit.With(exit.Refused, c.in.Errorf("%s is larger than %d GB%s, google's limit for an input file: cut smaller batches", p, large/1e9, with))
	case lines > many:
		return exit.With(exit.Refused, c.in.Errorf("%s has more than %s requests%s, google's limit for a job: cut smaller batches", p, commas(many), with))
	}
	return nil
}

// A payload is a batch as it is sent: its request lines in a file without a
// name, so that nothing is left on disk however the process ends.
type payload struct {
	record.Header // Count is the number of lines; Batch is empty if there was no header
	hash          string
	canary        int
	file          *os.File
	size          int64
}

func (p *payload) close() { p.file.Close() }

// name is the name of the submission in the ledger and at Google.
func (p *payload) name() string { return ledger.Name(p.Batch, p.hash) }

// mark returns the ledger's mark for a phase of p's submission.
func (p *payload) mark(phase, input, job string) ledger.Mark {
	return ledger.Mark{Name: p.name(), Batch: p.Batch, SHA256: p.hash, Requests: p.Count, Phase: phase, Input: input, Job: job}
}

// label is the display name: name, and the number of canaries in the file.
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

// parseLabel splits a label into its parts.
func parseLabel(s string) (batch, hash string, canary int, ok bool) {
	m := labels.FindStringSubmatch(s)
	if m == nil {
		return "", "", 0, false
	}
	canary, _ = strconv.Atoi(m[3])
	return m[1], m[2], canary, true
}

// claimed matches the names that chunks-pending gives: a b and a ULID.
var claimed = regexp.MustCompile(`^b[0-9A-HJKMNP-TV-Z]{26}$`)

// A cutter reads headers and requests and cuts them into payloads.
type cutter struct {
	*Submit
	in      *ndjson.Reader
	parser  record.Request
	pending *record.Header // a header that was read, but not its lines
	held    *request       // a request that was read, but did not fit into the last payload
	seed    maphash.Seed
}

func newCutter(s *Submit, in io.Reader) *cutter {
	return &cutter{Submit: s, in: ndjson.NewReader(in), seed: maphash.MakeSeed()}
}

// A request is one line of a batch.
type request struct {
	line []byte
	key  string
	dim  int // the dim that it asks for; 0 if it does not say
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
			if err == nil && p.canary > 0 {
				err = c.checkSize(p, p.Count+p.canary, p.size)
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

// fill spools requests: as many as p's header announces, or as many as the
// limits allow if there is no header.
func (c *cutter) fill(p *payload, w *spool) error {
	headed, announced := p.Batch != "", p.Count
	p.Count = 0
	keys := make(map[uint64]struct{})
	var sum record.KeySum
	for !headed || p.Count < announced {
		if c.held == nil {
			if err := c.scan(headed); err != nil && err != io.EOF {
				return err
			}
		}
		if c.held == nil { // the end of the input, or the next header
			if !headed {
				return nil
			}
			if c.AllowPartial && claimed.MatchString(p.Batch) {
				return c.in.Errorf("%s has %d requests where its header says %d: nothing of it is sent, because chunks-pending claimed it, and a job for a part of it would be taken for the job of the whole batch; to send only some chunks, select them with chunks-pending --from", p, p.Count, announced)
			}
			if c.AllowPartial {
				slog.Warn("a batch has fewer requests than its header says, and is submitted", "batch", p.Batch, "requests", p.Count, "announced", announced)
				return nil
			}
			return c.in.Errorf("%s has %d requests where its header says %d: a command earlier in the pipe ended early, and nothing of the batch is sent; run the whole pipe again", p, p.Count, announced)
		}
		r := c.held
		grown := w.size + int64(len(r.line)) + 1
		if !headed && p.Count > 0 && (p.Count >= int(c.MaxRequests) || grown > int64(c.MaxBytes)) {
			return nil
		}
		c.held = nil
		if err := c.checkSize(p, p.Count+1, grown); err != nil {
			return err
		}
		// A collision of two hashes refuses a good line once in 10^13 batches. The
		// next run has another seed.
		h := maphash.String(c.seed, r.key)
		if _, twice := keys[h]; twice {
			return c.in.Errorf("key %q occurs twice in %s", r.key, p)
		}
		keys[h] = struct{}{}
		if p.Keys != "" {
			sum.Add(r.key)
		}
		if !headed {
			if p.Count == 0 {
				p.Dim = r.dim
			} else if p.Dim != r.dim {
				return c.in.Errorf("key %q asks for dim %d, but its batch has dim %d: submit requests of different dims as different batches", r.key, r.dim, p.Dim)
			}
		}
		p.Count++
		if err := w.line(r.line, c.Canary > 0); err != nil {
			return err
		}
	}
	if p.Keys != "" && p.Keys != sum.String() {
		return c.in.Errorf("%s has other keys than its header announces: lines are missing, or belong to another batch; nothing of the batch is sent; run the whole pipe again, chunks-pending prints the batch again", p)
	}
	return nil
}

// scan reads one line into pending or held. headed tells that a header is above
// the line; if not, the request itself must say what it asks for.
func (c *cutter) scan(headed bool) error {
	line, err := c.in.Next()
	if err != nil {
		return err
	}
	var h record.Header
	header, err := c.parser.Parse(line, &h)
	if err != nil {
		return c.in.Errorf("%w", err)
	}
	if header {
		h.Model = cmp.Or(h.Model, c.Model)
		c.pending = &h
		return nil
	}
	r := &request{line: c.parser.Line, key: c.parser.Key}
	if c.Backend == model.Vertex {
		if err := c.parser.CheckVertex(); err != nil {
			return c.in.Errorf("key %.100q: %w; nothing of the batch is sent: make the requests with to-jsonl --shape vertex", r.key, err)
		}
	}
	if c.parser.Claimed && !headed {
		return c.in.Errorf("key %.100q is a request of a claimed batch, without its header: nothing of the batch is sent; run the whole pipe again, and keep each header and its requests together and in order", r.key)
	}
	if !headed {
		if r.dim, err = c.parser.Dim(); err != nil {
			return c.in.Errorf("key %.100q: %w", r.key, err)
		}
	}
	c.held = r
	return nil
}

// A spool is the file that a payload is written to.
type spool struct {
	file *os.File
	w    *bufio.Writer
	hash hash.Hash
	size int64
	ends []int64 // the offset of the end of each line
}

func newSpool() (*spool, error) {
	f, err := nameless()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	return &spool{file: f, w: bufio.NewWriterSize(io.MultiWriter(f, h), 64<<10), hash: h}, nil
}

// nameless creates a file without a name. If the file system can only create
// files with a name, nameless deletes the name at once, and a process that is
// killed in between leaves the file behind.
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

// addCanaries rewrites the file with n of its lines repeated. The lines are
// spread evenly, and each copy is half the file away from its line.
func (p *payload) addCanaries(n int, ends []int64) error {
	if n <= 0 {
		return nil
	}
	after := make(map[int][]byte) // canary lines, by the line after which they are inserted
	for i := range n {
		at := i * p.Count / n
		line := make([]byte, ends[at]-start(ends, at))
		if _, err := p.file.ReadAt(line, start(ends, at)); err != nil {
			return err
		}
		var r record.Request
		if _, err := r.Parse(bytes.TrimSpace(line), new(record.Header)); err != nil {
			return err
		}
		after[(at+p.Count/2)%p.Count] = r.Canary(i)
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

// cut reads payloads, at most one ahead of the submission, and sends them to the
// channel. After the channel is closed, the error says why the reading ended.
func (c *cutter) cut(ctx context.Context) (<-chan *payload, *error) {
	batches, bytes := progress.Of(ctx).Count("batches"), progress.Of(ctx).Flow("bytes")
	payloads, failed := make(chan *payload), new(error)
	go func() {
		defer close(payloads)
		defer batches.Final()
		defer bytes.Final()
		for {
			p, err := c.next()
			if err != nil {
				if err != io.EOF {
					*failed = err
				}
				return
			}
			batches.Expect(1)
			bytes.Expect(p.size)
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
