package gbatch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"regexp"
	"runtime"
	"slices"

	"gbatch/pkg/exit"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/vector"
	"gbatch/pkg/wire"
)

// blockSize is how much of a result one worker parses at a time. Larger blocks
// are not faster and take more memory.
const blockSize = 256 << 10

// A block is some whole lines of a result, and what they were converted to.
type block struct {
	in, out []byte
	got     answers
	line    int // number of the line that err is about; the first is 1
	err     error
	done    chan struct{}
}

// convert turns a result file into vector and error records, in the order of its
// lines. One worker per processor parses blocks. The number of blocks is fixed,
// so memory does not grow with the file. stop ends a Read of r that hangs.
func convert(r io.Reader, stop func(), c *converter, out io.Writer) (got answers, err error) {
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *block, 3*workers)
	for range cap(free) {
		free <- new(block)
	}
	todo := make(chan *block, cap(free))
	order := make(chan *block, cap(free))
	quit := make(chan struct{})
	var readErr error
	go func() {
		readErr = cutBlocks(r, free, todo, order, quit)
		close(todo)
		close(order)
	}()
	for range workers {
		w := *c
		go func() {
			for b := range todo {
				w.block(b)
				close(b.done)
			}
		}()
	}
	defer func() { // the reading goroutine must end before the caller closes r
		close(quit)
		stop()
		for b := range order {
			<-b.done
		}
	}()
	lines := 0 // in the blocks before this one
	for b := range order {
		<-b.done
		if b.err != nil {
			if _, err := out.Write(b.out); err != nil { // the answers before the error are paid for
				return got, err
			}
			return got, fmt.Errorf("line %d of the result: %w", lines+b.line, b.err)
		}
		if got.unreadable == 0 && b.got.unreadable > 0 {
			b.got.firstBad += lines
		}
		lines += b.line
		got.add(b.got)
		c.answers.Add(int64(b.got.own + b.got.unreadable))
		if _, err := out.Write(b.out); err != nil {
			return got, err
		}
		free <- b
	}
	return got, readErr
}

// cutBlocks reads r into free blocks and sends each block both to the workers
// and to the writer. All blocks but the last end at a line end.
func cutBlocks(r io.Reader, free <-chan *block, todo, order chan<- *block, quit <-chan struct{}) error {
	var rest []byte
	for {
		var b *block
		select {
		case b = <-free:
		case <-quit:
			return nil
		}
		*b = block{in: append(b.in[:0], rest...), out: b.out[:0], done: make(chan struct{})}
		rest = rest[:0]
		var err error
		for err == nil {
			if len(b.in) == cap(b.in) {
				b.in = slices.Grow(b.in, max(blockSize, len(b.in)))
			}
			var n int
			n, err = r.Read(b.in[len(b.in):cap(b.in)])
			b.in = b.in[:len(b.in)+n]
			if len(b.in) < blockSize {
				continue
			}
			if end := lastLF(b.in) + 1; end > 0 {
				rest = append(rest, b.in[end:]...)
				b.in = b.in[:end]
				break
			}
			if len(b.in) > ndjson.MaxLine {
				return &oneBatch{exit.Errorf(exit.Malformed, "a line of the result is longer than 16 MiB")}
			}
		}
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF && len(rest) > 0 { // Read returned the last bytes together with io.EOF
			b.in = append(b.in, rest...)
		}
		if len(b.in) > 0 {
			todo <- b
			order <- b
		}
		if err == io.EOF {
			return nil
		}
	}
}

// lastLF is bytes.LastIndexByte for '\n', but faster: LastIndexByte compares one
// byte at a time, IndexByte 32. So lastLF calls IndexByte on pieces from the
// end.
func lastLF(b []byte) int {
	for end := len(b); end > 0; {
		start := max(0, end-1024)
		if bytes.IndexByte(b[start:end], '\n') >= 0 {
			return start + bytes.LastIndexByte(b[start:end], '\n')
		}
		end = start
	}
	return -1
}

// A converter turns lines of one job's result into records. Each worker has
// its own.
type converter struct {
	*Fetch
	job    *record.Job
	hide   func(string) string // hide of the job's backend
	parser record.ResponseParser

	answers *progress.Count // answers of keys that were printed
}

// block converts the lines of a block. A line that cannot be read is an error of
// its key, if the key can be read. Otherwise the key gets no answer. Only a file
// that ends within a line is an error of the job: it was cut off.
func (c *converter) block(b *block) {
	for in := b.in; len(in) > 0; {
		b.line++
		line, rest, whole := bytes.Cut(in, []byte("\n"))
		in = rest
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		r, err := parse(&c.parser, line)
		if err != nil && !whole {
			b.err = &oneBatch{exit.Errorf(exit.Malformed, "it ends in half a line: %w", err)}
			return
		}
		b.got.lines++
		if line[0] == '{' {
			b.got.objects++
		}
		if err != nil {
			r, err = salvage(line, err)
		}
		if err != nil {
			if b.got.unreadable == 0 {
				b.got.firstBad, b.got.reason = b.line, c.hide(wire.OneLine(err.Error()))
			}
			b.got.unreadable++
			continue
		}
		b.got.tokens += max(r.Tokens, 0)
		if _, is := record.CanaryOf(r.Key); is {
			continue
		}
		b.got.own++
		if fail := c.check(r); fail != nil {
			b.got.failed++
			fail = canonical(*fail)
			fail.Status, fail.Message = c.hide(fail.Status), c.hide(fail.Message)
			line, err := ndjson.Marshal(record.KeyError{Key: r.Key, Batch: c.job.Batch, Error: *fail})
			if err != nil {
				b.err = err
				return
			}
			b.out = append(append(b.out, line...), '\n')
		} else {
			b.got.vectors++
			b.out = record.VectorLine(c.Array)(b.out, r.Key, c.job.Batch, r.Values, r.Tokens)
		}
	}
}

// parse reads a line of a result. If the line has a key but neither a vector nor
// an error, parse returns an error of that key.
func parse(p *record.ResponseParser, line []byte) (*record.Response, error) {
	r, err := p.Parse(line)
	var bad *record.AnswerError
	if errors.As(err, &bad) && bad.Key != "" {
		return &record.Response{Key: bad.Key, HasKey: true, Err: internal("the answer %s", bad.Reason)}, nil
	}
	if err == nil && r.Key == "" {
		err = errors.New("an answer without a key: nothing tells which text it belongs to")
	}
	return r, err
}

// keyMember matches a member "key" with a string value. It matches nothing
// inside a string, because quotes are escaped there.
var keyMember = regexp.MustCompile(`"key"\s*:\s*("(?:[^"\\]|\\.)*")`)

// salvage handles a line that cannot be parsed because of cause. If the line has
// exactly one key, salvage returns an error of that key.
func salvage(line []byte, cause error) (*record.Response, error) {
	found := keyMember.FindAllSubmatch(line, 2)
	if len(found) != 1 {
		return nil, cause
	}
	var w ndjson.Walker
	w.Begin(slices.Concat([]byte(`{"key":`), found[0][1], []byte("}")))
	w.Next()
	key, _ := w.Text()
	if w.Next(); w.Err() != nil || len(key) == 0 {
		return nil, cause
	}
	return &record.Response{Key: string(key), HasKey: true, Err: internal("the answer cannot be read: %v", cause)}, nil
}

func internal(format string, args ...any) *record.Status {
	return &record.Status{Code: 13, Message: wire.OneLine(fmt.Sprintf(format, args...))}
}

// check returns what is wrong with an answer, or nil if its vector can be
// printed.
func (c *converter) check(r *record.Response) *record.Status {
	if r.Err != nil {
		return r.Err
	}
	return checkVector(r.Values, c.job.Dim, c.Normalize)
}

// checkVector returns what is wrong with the values of an answer, or nil. It
// scales them to length 1 if normalize is set. If dim is 0, any number of values is
// right.
func checkVector(values []float32, dim int, normalize bool) *record.Status {
	switch {
	case len(values) == 0:
		return internal("an answer without values")
	case dim > 0 && len(values) != dim:
		return internal("vector of %d values instead of %d", len(values), dim)
	case normalize && !vector.Normalize(values):
		return internal("a vector of length zero cannot be normalized")
	}
	return nil
}

// alike is the lowest cosine at which two vectors count as vectors of the same
// text.
const alike = 0.999

// verify compares the answers to n canaries with the answers to the requests
// that they repeat. all returns a new reader of the whole result at each call.
func verify(all func() io.Reader, n int) error {
	type pair struct {
		key           string
		canary, first []float32
		failed        bool // the answer to the request or to its canary is an error
	}
	pairs := make(map[string]*pair) // by the canary's key
	repeated := make(map[string][]*pair)
	err := eachAnswer(all(), func(r *record.Response) {
		if key, is := record.CanaryOf(r.Key); is {
			p := &pair{key: key, canary: slices.Clone(r.Values), failed: r.Err != nil}
			pairs[r.Key] = p
			repeated[key] = append(repeated[key], p)
		}
	})
	if err != nil {
		return err
	}
	err = eachAnswer(all(), func(r *record.Response) {
		for _, p := range repeated[r.Key] {
			p.first = slices.Clone(r.Values)
			p.failed = p.failed || r.Err != nil
		}
	})
	if err != nil {
		return err
	}
	var bad []string
	failed := 0
	for _, id := range slices.Sorted(maps.Keys(pairs)) {
		p := pairs[id]
		if p.failed {
			failed++
			continue
		}
		if !same(p.canary, p.first) {
			bad = append(bad, fmt.Sprintf("%q", p.key))
		}
	}
	const advice = "no vector of the job is printed and its input is kept: fetch it again; if the result is the same, do not trust the job"
	switch {
	case len(bad) > 0:
		return exit.Errorf(exit.Partial, "the answers to %d of %d requests that were sent twice differ or are missing, so answers may be under wrong keys: keys %s; %s", len(bad), n, few(bad), advice)
	case len(pairs) < n:
		return exit.Errorf(exit.Partial, "%d of %d requests that were sent twice have only one answer; %s", n-len(pairs), n, advice)
	case failed > 0:
		slog.Warn("requests that were sent twice have an error as answer, and were not compared", "requests", failed, "of", n)
	}
	return nil
}

func same(a, b []float32) bool {
	return len(a) > 0 && len(a) == len(b) && (slices.EqualFunc(a, b, func(x, y float32) bool {
		return math.Float32bits(x) == math.Float32bits(y)
	}) || vector.Cosine(a, b) >= alike)
}

// eachAnswer calls f with every line of a result that can be read. f must not
// keep the values after it returns. A file that ends within a line is an error.
func eachAnswer(r io.Reader, f func(*record.Response)) error {
	var parser record.ResponseParser
	var bad error // the error of the last line
	end := new(lastByte)
	for in := ndjson.NewReader(io.TeeReader(r, end)); ; {
		line, err := in.Next()
		if err == io.EOF && end.b != '\n' {
			return bad
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		a, err := parse(&parser, line)
		if bad = nil; err != nil {
			bad = exit.With(exit.Malformed, in.Errorf("%w", err))
			if a, err = salvage(line, err); err != nil {
				continue
			}
		}
		f(a)
	}
}

// lastByte keeps the last byte that is written to it.
type lastByte struct{ b byte }

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b = p[len(p)-1]
	}
	return len(p), nil
}
