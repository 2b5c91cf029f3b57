package emulator

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"
)

// errStopped ends the work on a job if the server closes, or if the job was
// cancelled or deleted.
var errStopped = errors.New("stopped")

// startWork needs s.mu held. It starts making a job's results in the background.
// A second call does nothing.
func (s *Server) startWork(j *job) {
	if j.working != nil || isDone(s.done) {
		return
	}
	j.working = make(chan struct{})
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		defer close(j.working)
		end, lines := s.faults.results(j)
		state := succeeded
		if end != nil {
			state = end.state
		}
		if j.Vertex != nil {
			s.predict(j, end, lines)
			return
		}
		if !hasResults(state) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !ended(j.State) {
				s.end(j, state, &rpcStatus{Code: end.code, Message: end.message})
			}
			return
		}
		done, err := s.makeResults(j, lines, j.Requests)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil && !ended(j.State) && !j.Deleted {
			err = s.publish(j, state, done)
		}
		os.Remove(s.jobPath(j.ID, ".results.tmp"))
		if err != nil && err != errStopped && !ended(j.State) {
			s.end(j, failed, &rpcStatus{Code: 13, Message: err.Error()})
		}
	}()
}

// predict makes the results of a job of Vertex AI, whatever state it ends in: what
// was done before is written, and paid for. The caller must not hold s.mu.
func (s *Server) predict(j *job, end *fault, lines []*fault) {
	state, status := succeeded, (*rpcStatus)(nil)
	s.mu.Lock()
	switch {
	case j.Vertex.Bad != nil:
		state, status = failed, j.Vertex.Bad
	case j.CancelAt > 0:
		state, status = cancelled, wasCancelled
	case end != nil:
		state = end.state
		if !hasResults(state) {
			status = &rpcStatus{Code: end.code, Message: end.message}
			j.Done = new(int64)
		}
		if end.done >= 0 {
			done := int64(end.done)
			j.Done = &done
		}
	}
	limit := j.Requests
	if j.Done != nil {
		limit = min(limit, *j.Done)
	}
	nothing := j.Vertex.Bad != nil || limit == 0
	s.mu.Unlock()
	var done *made
	var directory string
	var err error
	if !nothing {
		files := 1
		for _, f := range lines {
			if f.do == "files" {
				files = f.count
			}
		}
		if done, err = s.makeResults(j, lines, limit); err == nil {
			directory, err = s.addPredictions(j, files)
		}
		os.Remove(s.jobPath(j.ID, ".results.tmp"))
		os.Remove(s.jobPath(j.ID, ".errors.tmp"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ended(j.State) || j.Deleted || err == errStopped:
		return
	case err != nil:
		state, status = failed, &rpcStatus{Code: 13, Message: err.Error()}
	case done != nil:
		j.Vertex.Directory, j.Vertex.Tokens = directory, done.tokens
		j.Failed, j.Succeeded = done.failed, limit-done.failed
	}
	s.end(j, state, status)
}

// publish needs s.mu held. It writes the job's JSON last. Until the JSON has the
// final state, a restarted server does the work again.
func (s *Server) publish(j *job, state string, done *made) error {
	tmp := s.jobPath(j.ID, ".results.tmp")
	if j.Inline {
		if err := os.Rename(tmp, s.jobPath(j.ID, ".results")); err != nil {
			return err
		}
	} else {
		f := &file{
			ID: resultFile(j), Project: j.Project, MimeType: "application/jsonl", Source: generated,
			Size: done.bytes, Created: time.Now(),
		}
		f.Expires = f.Created.Add(fileLife)
		if err := s.addFile(f, tmp); err != nil {
			return err
		}
	}
	j.Succeeded, j.Failed = j.Requests-done.failed, done.failed
	return s.end(j, state, nil)
}

// made is the outcome of making a job's results.
type made struct {
	failed int64 // lines with an error
	bytes  int64
	tokens int64
}

// makeResults writes the results of j to .results.tmp, and the outcome of its
// lines to .outcome. It reads the input line by line, and needs 12 bytes of
// memory for each line. The lines after the first limit lines get no answer.
func (s *Server) makeResults(j *job, faults []*fault, limit int64) (*made, error) {
	input, err := os.Open(s.jobPath(j.ID, ".input"))
	if err != nil {
		return nil, err
	}
	defer input.Close()
	starts, err := lineStarts(input)
	if err != nil {
		return nil, err
	}
	n := len(starts) - 1
	m := &resultMaker{s: s, j: j, input: input, starts: starts, faults: faults, partner: map[int]int{}}
	m.parser.generate, m.other.generate = j.Generate, j.Generate
	m.parser.vertex, m.other.vertex = j.Vertex != nil, j.Vertex != nil
	if err := m.pairUp(); err != nil {
		return nil, err
	}
	out, err := createFile(s.jobPath(j.ID, ".results.tmp"))
	if err != nil {
		return nil, err
	}
	outcome, err := createFile(s.jobPath(j.ID, ".outcome"))
	if err != nil {
		return nil, out.close(err)
	}
	m.out, m.outcome = out, outcome
	// Jobs of the same size have the same order, so that a failing test fails
	// again.
	order := make([]int32, n)
	for i := range order {
		order[i] = int32(i)
	}
	if !s.opts.InOrder {
		rand.New(rand.NewPCG(1, uint64(n))).Shuffle(n, func(a, b int) { order[a], order[b] = order[b], order[a] })
	}
	for at, i := range order {
		if int64(at) >= limit {
			fmt.Fprintf(outcome, "%d unpaid\n", i)
			continue
		}
		if err = s.stopped(j, at); err == nil {
			err = m.line(int(i), at, at == n-1)
		}
		if err != nil {
			break
		}
	}
	err = out.close(outcome.close(err))
	if err != nil {
		return nil, err
	}
	return &made{failed: m.failed, bytes: m.bytes, tokens: m.spent}, nil
}

// stopped returns errStopped if the worker must stop. It checks the job's state
// at every 256th line.
func (s *Server) stopped(j *job, at int) error {
	if isDone(s.done) {
		return errStopped
	}
	if at%256 == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ended(j.State) || j.Deleted {
			return errStopped
		}
	}
	return nil
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// lineStarts returns the offsets of the lines that are not blank, and of the end
// of the file.
func lineStarts(f io.Reader) ([]int64, error) {
	lines := lineReader{r: bufio.NewReaderSize(f, 1<<20)}
	var starts []int64
	for {
		_, err := lines.read()
		if err == io.EOF {
			return append(starts, lines.next), nil
		}
		if err != nil {
			return nil, err
		}
		starts = append(starts, lines.offset)
	}
}

// resultMaker turns lines of input into lines of results.
type resultMaker struct {
	s       *Server
	j       *job
	input   *os.File
	starts  []int64
	faults  []*fault
	partner map[int]int // pairs of lines whose vectors a fault swaps
	out     *outFile
	outcome *outFile
	failed  int64
	bytes   int64
	spent   int64 // tokens

	parser, other parser
	raw, rawOther []byte
	buf           []byte // the line that is being made
	digits        []byte
	vectorizer    vectorizer
}

// values returns the digits of a vector, separated by commas. They are valid
// until the next call.
func (m *resultMaker) values(model string, text []byte, dim int) []byte {
	text = cut(model, text)
	switch {
	case dim < 1:
		m.digits = m.digits[:0]
	case m.s.opts.Cheap:
		m.digits = appendCheap(m.digits[:0], text, dim)
	default:
		bits := 32
		if m.s.opts.Float64Digits {
			bits = 64
		}
		m.digits = appendDigits(m.digits[:0], m.vectorizer.vector(model, string(text), dim), bits)
	}
	if m.s.opts.Spaces {
		m.digits = bytes.ReplaceAll(m.digits, []byte(","), []byte(", "))
	}
	return m.digits
}

// read parses line i of the input.
func (m *resultMaker) read(p *parser, raw *[]byte, i int) (*item, error) {
	size := int(m.starts[i+1] - m.starts[i])
	if cap(*raw) < size {
		*raw = make([]byte, size)
	}
	*raw = (*raw)[:size]
	if _, err := m.input.ReadAt(*raw, m.starts[i]); err != nil {
		return nil, err
	}
	return p.line(*raw)
}

// pairUp finds the lines whose vectors a swap exchanges: the selected lines, in
// pairs, in the order of the input.
func (m *resultMaker) pairUp() error {
	for _, f := range m.faults {
		if f.do != "swap" {
			continue
		}
		first := -1
		for i := range len(m.starts) - 1 {
			it, err := m.read(&m.parser, &m.raw, i)
			if err != nil {
				return err
			}
			if !f.selects(i, len(m.starts)-1, it.key) {
				continue
			}
			if first < 0 {
				first = i
				continue
			}
			m.partner[i], m.partner[first] = first, i
			first = -1
		}
	}
	return nil
}

// line writes the answer to line i of the input as line number at of the
// results.
func (m *resultMaker) line(i, at int, last bool) error {
	it, err := m.read(&m.parser, &m.raw, i)
	if err != nil {
		return err
	}
	if m.j.Vertex != nil {
		m.spent += it.tokens(m.j.Model)
	}
	var spoil, wrong *fault
	var edits []edit
	half, changed := false, false
	copies, foreign := 1, false
	for _, f := range m.faults {
		if f.do == "files" {
			continue
		}
		if f.do == "half" {
			half = half || last
			continue
		}
		if !f.selects(i, len(m.starts)-1, it.key) {
			continue
		}
		switch f.do {
		case "duplicate":
			copies = 2
		case "foreign":
			foreign = true
		case "error":
			wrong = f
		case "missing", "length", "values", "nokey", "line", "garbage":
			spoil = f
		case "set":
			edits = append(edits, f.edits...)
			for _, e := range f.edits {
				// A change of any other member does not spoil the line.
				path := strings.Join(e.path, ".")
				changed = changed || path == "key" || path == "response" || strings.HasPrefix(path+".", "response.embedding.")
			}
		}
	}
	if wrong == nil && len(it.text) == 0 {
		wrong = &fault{code: 3, message: "content has no text"}
	}
	text := it.text
	swapped := false
	if k, ok := m.partner[i]; ok {
		other, err := m.read(&m.other, &m.rawOther, k)
		if err != nil {
			return err
		}
		text, swapped = other.text, true
	}
	switch {
	case wrong != nil:
		m.failed++
		fmt.Fprintf(m.outcome, "%d failed\n", i)
	case spoil != nil || half || swapped || changed:
		fmt.Fprintf(m.outcome, "%d spoiled\n", i)
	}
	key := it.rawKey
	m.buf = m.buf[:0]
	for range copies {
		start := len(m.buf)
		switch {
		case wrong != nil && m.j.Vertex != nil:
			if err := m.vertexError(it, key, at, wrong); err != nil {
				return err
			}
		case wrong != nil:
			m.put(it, key, at, func() { m.errorBody(wrong) })
		case spoil == nil:
			m.put(it, key, at, func() { m.response(it, at, func() { m.add(m.values(m.j.Model, text, it.size())...) }) })
		case spoil.do == "missing":
		case spoil.do == "nokey":
			m.put(it, nil, at, func() { m.response(it, at, func() { m.add(m.values(m.j.Model, text, it.size())...) }) })
		case spoil.do == "garbage":
			m.puts("this is not JSON\n")
		case spoil.do == "line":
			m.puts(spoil.what + "\n")
		case spoil.do == "length":
			dim := spoil.count
			if dim < 0 {
				dim = max(0, it.size()+dim)
			}
			m.put(it, key, at, func() { m.response(it, at, func() { m.add(m.values(m.j.Model, text, dim)...) }) })
		case spoil.do == "values":
			m.put(it, key, at, func() { m.oddValues(it, at, spoil.what, text) })
		}
		if edits != nil && len(m.buf) > start {
			line := bytes.Clone(m.buf[start : len(m.buf)-1])
			for _, e := range edits {
				line = e.apply(line)
			}
			m.buf = append(append(m.buf[:start], line...), '\n')
		}
	}
	if foreign {
		m.put(it, append([]byte(`"foreign-`), key[min(1, len(key)):]...), at, func() {
			m.response(it, at, func() { m.add(m.values(m.j.Model, text, it.size())...) })
		})
	}
	if half {
		m.buf = m.buf[:len(m.buf)/2]
	}
	n, err := m.out.Write(m.buf)
	m.bytes += int64(n)
	return err
}

func (m *resultMaker) add(b ...byte) { m.buf = append(m.buf, b...) }
func (m *resultMaker) puts(s string) { m.buf = append(m.buf, s...) }

// name adds a field name and a colon.
func (m *resultMaker) name(s string) {
	m.buf = append(m.buf, '"')
	m.buf = append(m.buf, s...)
	m.buf = append(m.buf, `":`...)
	if m.s.opts.Spaces {
		m.buf = append(m.buf, ' ')
	}
}

func (m *resultMaker) comma() {
	m.buf = append(m.buf, ',')
	if m.s.opts.Spaces {
		m.buf = append(m.buf, ' ')
	}
}

// put writes one line of results: the key and the body. In every third line the
// key comes first. An inline job has the metadata in place of the key.
func (m *resultMaker) put(it *item, key []byte, at int, body func()) {
	if m.j.Vertex != nil {
		m.putVertex(it, key, at, true, body)
		return
	}
	label, value := "key", key
	if m.j.Inline {
		label, value = "metadata", it.metadata
	}
	m.add('{')
	if value != nil && at%3 == 2 {
		m.name(label)
		m.add(value...)
		m.comma()
	}
	body()
	if value != nil && at%3 != 2 {
		m.comma()
		m.name(label)
		m.add(value...)
	}
	m.puts("}\n")
}

// response adds the body of an answer with a vector.
func (m *resultMaker) response(it *item, at int, values func()) {
	m.name("response")
	m.add('{')
	m.tokens(it, at)
	m.comma()
	m.name("embedding")
	m.add('{')
	m.name("values")
	m.add('[')
	values()
	m.puts("]}}")
}

// tokens adds the token count in one of the three known forms.
func (m *resultMaker) tokens(it *item, at int) {
	form := m.s.opts.Tokens
	if form == "mixed" {
		form = []string{"string", "number", "usage"}[at%3]
	}
	n := strconv.FormatInt(it.tokens(m.j.Model), 10)
	switch form {
	case "string":
		m.name("tokenCount")
		m.puts(`"` + n + `"`)
	case "number":
		m.name("tokenCount")
		m.puts(n)
	case "usage":
		m.name("usageMetadata")
		m.add('{')
		m.name("promptTokenCount")
		m.puts(n + "}")
	}
}

// errorBody adds the body of an answer with an error.
func (m *resultMaker) errorBody(f *fault) {
	if f.place == "response" {
		m.name("response")
		m.add('{')
		defer m.add('}')
	}
	m.name("error")
	if f.error != nil {
		m.add(f.error...)
		return
	}
	m.add('{')
	m.name("code")
	m.buf = strconv.AppendInt(m.buf, int64(f.code), 10)
	m.comma()
	m.name("message")
	m.buf = appendJSON(m.buf, f.message)
	m.add('}')
}

// oddValues writes an answer whose values are not a vector.
func (m *resultMaker) oddValues(it *item, at int, what string, text []byte) {
	instead := map[string]string{"nan": "NaN", "nan-string": `"NaN"`, "inf": "Infinity", "huge": "1e39", "null-element": "null"}[what]
	switch {
	case instead != "":
		m.response(it, at, func() {
			m.puts(instead)
			if rest := m.values(m.j.Model, text, it.size()-1); len(rest) > 0 {
				m.comma()
				m.add(rest...)
			}
		})
	case what == "empty":
		m.response(it, at, func() {})
	case what == "null":
		m.puts(`"response":{"embedding":{"values":null}}`)
	case what == "absent":
		m.puts(`"response":{"embedding":{}}`)
	}
}
