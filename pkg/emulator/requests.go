package emulator

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// This file reads the lines of an input file like Google's parser. It refuses
// unknown fields inside "request" and skips those outside of it. It accepts
// camel case and snake case, null for absent, and numbers as strings. Its errors
// name the line and the column. The parser is written by hand, because it must
// know columns and be fast enough for files of gigabytes.

// item is one line of an input file, or one request of a synchronous call. Its
// slices are valid until the next parse.
type item struct {
	key      []byte // unescaped
	rawKey   []byte // as written, with its quotes; nil if the line has no key
	request  []byte // the request, as written
	metadata []byte // metadata of an inline request, as written
	model    []byte
	text     []byte // the parts joined by newlines, because several parts make one vector
	title    []byte
	task     []byte
	dim      int // 0 if not given
}

// parseError is an error in a line, at a column counted in bytes from 1.
type parseError struct {
	column int
	msg    string
}

func (e *parseError) Error() string {
	return fmt.Sprintf("invalid JSON, near column %d: %s", e.column, e.msg)
}

// taskTypes are the values of google.ai.generativelanguage.v1beta.TaskType.
var taskTypes = []string{
	"TASK_TYPE_UNSPECIFIED", "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY", "CLASSIFICATION", "CLUSTERING",
	"QUESTION_ANSWERING", "FACT_VERIFICATION", "CODE_RETRIEVAL_QUERY",
}

const (
	maxDim   = 3072
	maxDepth = 100
)

// parser reads one line at a time and keeps its buffers.
type parser struct {
	generate bool // also accepts contents and config, as the generic create does
	vertex   bool // ignores options that are not in the config
	b        []byte
	i        int
	item     item
	text     []byte // buffer for item.text
	unescape []byte // buffer for the other strings
}

// line parses {"key":…,"request":{…}}. It skips fields beside request, as Google
// does.
func (p *parser) line(b []byte) (*item, error) {
	p.reset(b)
	seen := false
	err := p.object(func(name []byte, at int) error {
		var err error
		switch string(name) {
		case "key":
			p.space()
			start := p.i
			if p.item.key, err = p.optionalString(); err == nil && p.b[start] == '"' {
				p.item.rawKey = p.b[start:p.i]
			}
		case "metadata":
			p.space()
			start := p.i
			err = p.skip(0)
			p.item.metadata = p.b[start:p.i]
		case "request":
			seen = true
			p.space()
			start := p.i
			err = p.request()
			p.item.request = p.b[start:p.i]
		default:
			err = p.skip(0)
		}
		return err
	})
	if err == nil {
		err = p.end()
	}
	if err == nil && !seen {
		err = p.fail(len(b), "no request")
	}
	return &p.item, err
}

// bare parses one EmbedContentRequest without an outer object.
func (p *parser) bare(b []byte) (*item, error) {
	p.reset(b)
	err := p.request()
	if err == nil {
		err = p.end()
	}
	return &p.item, err
}

func (p *parser) reset(b []byte) {
	p.b, p.i, p.item = b, 0, item{}
	p.text, p.unescape = p.text[:0], p.unescape[:0]
}

func (p *parser) end() error {
	if p.space(); p.i < len(p.b) {
		return p.unexpected("end of line")
	}
	return nil
}

func (p *parser) request() error {
	var top, config struct {
		title, task []byte
		dim         int
	}
	err := p.object(func(name []byte, at int) (err error) {
		switch string(name) {
		case "model":
			p.item.model, err = p.optionalString()
		case "content":
			err = p.content()
		case "taskType", "task_type":
			top.task, err = p.taskType()
		case "title":
			top.title, err = p.optionalString()
		case "outputDimensionality", "output_dimensionality":
			top.dim, err = p.dim()
		case "embedContentConfig", "embed_content_config", "config":
			if string(name) == "config" && !p.generate {
				return p.noField(name, at)
			}
			err = p.object(func(name []byte, at int) (err error) {
				switch string(name) {
				case "taskType", "task_type":
					config.task, err = p.taskType()
				case "title":
					config.title, err = p.optionalString()
				case "outputDimensionality", "output_dimensionality":
					config.dim, err = p.dim()
				case "autoTruncate", "auto_truncate", "documentOcr", "document_ocr", "audioTrackExtraction", "audio_track_extraction":
					err = p.boolean()
				default:
					err = p.noField(name, at)
				}
				return err
			})
		case "contents":
			if !p.generate {
				return p.noField(name, at)
			}
			err = p.array(p.content)
		default:
			err = p.noField(name, at)
		}
		return err
	})
	if !p.vertex { // whether Vertex AI reads them in a batch is unknown
		p.item.title, p.item.task, p.item.dim = top.title, top.task, top.dim
	}
	if config.title != nil {
		p.item.title = config.title
	}
	if config.task != nil {
		p.item.task = config.task
	}
	if config.dim != 0 {
		p.item.dim = config.dim
	}
	p.item.text = p.text
	return err
}

func (p *parser) content() error {
	return p.object(func(name []byte, at int) (err error) {
		switch string(name) {
		case "parts":
			err = p.array(func() error {
				return p.object(func(name []byte, at int) error {
					if string(name) != "text" {
						return p.noField(name, at)
					}
					if len(p.text) > 0 {
						p.text = append(p.text, '\n')
					}
					var err error
					if p.null() {
						return nil
					}
					p.text, err = p.str(p.text)
					return err
				})
			})
		case "role":
			_, err = p.optionalString()
		default:
			err = p.noField(name, at)
		}
		return err
	})
}

func (p *parser) taskType() ([]byte, error) {
	p.space()
	at := p.i
	task, err := p.optionalString()
	if err == nil && task != nil && !slices.Contains(taskTypes, string(task)) {
		err = p.fail(at, "unknown value for enum TaskType: '"+string(task)+"'")
	}
	return task, err
}

func (p *parser) dim() (int, error) {
	p.space()
	at := p.i
	if p.null() {
		return 0, nil
	}
	var digits []byte
	var err error
	if p.peek() == '"' {
		start := len(p.unescape)
		p.unescape, err = p.str(p.unescape)
		digits = p.unescape[start:]
	} else {
		err = p.number()
		digits = p.b[at:p.i]
	}
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseFloat(string(digits), 64)
	if err != nil || v != math.Trunc(v) {
		return 0, p.fail(at, "not an integer: "+string(digits))
	}
	if v < 1 || v > maxDim {
		return 0, p.fail(at, fmt.Sprintf("output dimensionality %s is not in 1 to %d", digits, maxDim))
	}
	return int(v), nil
}

func (p *parser) boolean() error {
	for _, word := range []string{"true", "false"} {
		if p.space(); bytes.HasPrefix(p.b[p.i:], []byte(word)) {
			p.i += len(word)
			return nil
		}
	}
	if p.null() {
		return nil
	}
	return p.unexpected("a boolean")
}

// ---- JSON

func (p *parser) fail(at int, msg string) error { return &parseError{column: at + 1, msg: msg} }

func (p *parser) noField(name []byte, at int) error {
	return p.fail(at, "no such field: '"+string(name)+"'")
}

func (p *parser) unexpected(want string) error {
	if p.i >= len(p.b) {
		return p.fail(p.i, "unexpected end; expected "+want)
	}
	r, _ := utf8.DecodeRune(p.b[p.i:])
	return p.fail(p.i, fmt.Sprintf("unexpected character: '%c'; expected %s", r, want))
}

func (p *parser) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\t', '\r', '\n':
			p.i++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.i < len(p.b) {
		return p.b[p.i]
	}
	return 0
}

// next skips white space and the byte c. It reports whether c was there.
func (p *parser) next(c byte) bool {
	p.space()
	if p.peek() != c {
		return false
	}
	p.i++
	return true
}

// null reads a null, which stands for an absent field in proto JSON.
func (p *parser) null() bool {
	if p.space(); !bytes.HasPrefix(p.b[p.i:], []byte("null")) {
		return false
	}
	p.i += 4
	return true
}

// object calls field with the position of each value; field must consume the
// value.
func (p *parser) object(field func(name []byte, at int) error) error {
	if p.null() {
		return nil
	}
	if !p.next('{') {
		return p.unexpected("'{'")
	}
	if p.next('}') {
		return nil
	}
	for {
		p.space()
		at := p.i
		if p.peek() != '"' {
			return p.unexpected("'\"'")
		}
		start := len(p.unescape)
		var err error
		if p.unescape, err = p.str(p.unescape); err != nil {
			return err
		}
		if !p.next(':') {
			return p.unexpected("':'")
		}
		if err := field(p.unescape[start:len(p.unescape):len(p.unescape)], at); err != nil {
			return err
		}
		if p.next('}') {
			return nil
		}
		if !p.next(',') {
			return p.unexpected("',' or '}'")
		}
	}
}

func (p *parser) array(element func() error) error {
	if p.null() {
		return nil
	}
	if !p.next('[') {
		return p.unexpected("'['")
	}
	if p.next(']') {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if p.next(']') {
			return nil
		}
		if !p.next(',') {
			return p.unexpected("',' or ']'")
		}
	}
}

// optionalString reads a string into the parser's buffer. It returns nil for
// null.
func (p *parser) optionalString() ([]byte, error) {
	if p.null() {
		return nil, nil
	}
	start := len(p.unescape)
	var err error
	p.unescape, err = p.str(p.unescape)
	return p.unescape[start:len(p.unescape):len(p.unescape)], err
}

// str reads a string and appends it to dst, unescaped.
func (p *parser) str(dst []byte) ([]byte, error) {
	if !p.next('"') {
		return dst, p.unexpected("'\"'")
	}
	for {
		rest := p.b[p.i:]
		quote := bytes.IndexByte(rest, '"')
		if quote < 0 {
			p.i = len(p.b)
			return dst, p.unexpected("'\"'")
		}
		plain := bytes.IndexByte(rest[:quote], '\\')
		if plain < 0 {
			plain = quote
		}
		for k, c := range rest[:plain] {
			if c < ' ' {
				p.i += k
				return dst, p.fail(p.i, "control character in string")
			}
		}
		dst = append(dst, rest[:plain]...)
		p.i += plain + 1
		if plain == quote {
			return dst, nil
		}
		c := p.peek()
		p.i++
		switch c {
		case '"', '\\', '/':
			dst = append(dst, c)
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, ok := p.hex4()
			if ok && utf16.IsSurrogate(r) {
				var low rune
				if bytes.HasPrefix(p.b[p.i:], []byte(`\u`)) {
					p.i += 2
					low, ok = p.hex4()
				}
				r = utf16.DecodeRune(r, low)
				ok = ok && r != utf8.RuneError
			}
			if !ok {
				return dst, p.fail(p.i, "invalid escape")
			}
			dst = utf8.AppendRune(dst, r)
		default:
			return dst, p.fail(p.i-1, "invalid escape")
		}
	}
}

func (p *parser) hex4() (rune, bool) {
	if p.i+4 > len(p.b) {
		return 0, false
	}
	v := rune(0)
	for _, c := range p.b[p.i : p.i+4] {
		switch {
		case '0' <= c && c <= '9':
			v = v<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			v = v<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	p.i += 4
	return v, true
}

func (p *parser) number() error {
	p.space()
	digits := func() bool {
		start := p.i
		for '0' <= p.peek() && p.peek() <= '9' {
			p.i++
		}
		return p.i > start
	}
	if p.peek() == '-' {
		p.i++
	}
	if p.peek() == '0' {
		p.i++
	} else if !digits() {
		return p.unexpected("a value")
	}
	if p.peek() == '.' {
		if p.i++; !digits() {
			return p.unexpected("a digit")
		}
	}
	if p.peek()|0x20 == 'e' {
		if p.i++; p.peek() == '+' || p.peek() == '-' {
			p.i++
		}
		if !digits() {
			return p.unexpected("a digit")
		}
	}
	return nil
}

// skip reads a value, checks it, and ignores it.
func (p *parser) skip(depth int) error {
	if depth > maxDepth {
		return p.fail(p.i, "nested too deeply")
	}
	p.space()
	switch p.peek() {
	case '{':
		return p.object(func([]byte, int) error { return p.skip(depth + 1) })
	case '[':
		return p.array(func() error { return p.skip(depth + 1) })
	case '"':
		start := len(p.unescape)
		var err error
		p.unescape, err = p.str(p.unescape)
		p.unescape = p.unescape[:start]
		return err
	case 't', 'f', 'n':
		return p.boolean()
	}
	return p.number()
}

// ---- lines

// maxLine limits one line of an input file, in bytes.
const maxLine = 64 << 20

// lineReader reads the lines of a file and skips blank lines.
type lineReader struct {
	r      *bufio.Reader
	number int   // number of the last line, from 1, counting blank lines
	offset int64 // offset of the last line
	next   int64
	long   []byte
}

// read returns the next line without its end. The line is valid until the next
// call. At the end of the file the error is io.EOF.
func (l *lineReader) read() ([]byte, error) {
	for {
		l.number++
		l.offset = l.next
		b, err := l.r.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			l.long = append(l.long[:0], b...)
			for err == bufio.ErrBufferFull && len(l.long) <= maxLine {
				b, err = l.r.ReadSlice('\n')
				l.long = append(l.long, b...)
			}
			b = l.long
		}
		l.next += int64(len(b))
		if len(b) > maxLine {
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
		if err != nil && (err != io.EOF || len(b) == 0) {
			return nil, err
		}
		if b = bytes.TrimRight(b, " \t\r\n"); len(b) > 0 {
			return b, nil
		}
	}
}

// ---- checking a job's input

// textHash identifies a text in the books. It is the hash of model, title, task
// type, text and size.
func textHash(model string, it *item) [16]byte {
	h := sha256.New()
	var n [8]byte
	for _, s := range [][]byte{[]byte(model), it.title, it.task, it.text} {
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write(s)
	}
	binary.LittleEndian.PutUint64(n[:], uint64(it.size()))
	h.Write(n[:])
	var sum [32]byte
	h.Sum(sum[:0])
	return [16]byte(sum[:16])
}

// size is the number of values that the request asks for.
func (it *item) size() int {
	if it.dim == 0 {
		return maxDim
	}
	return it.dim
}

// listedErrors is how many bad lines one error names.
const listedErrors = 1000

// checkInput reads the whole input of a job, writes the cost of its lines to paid,
// and counts its requests and tokens in j. The error lists the bad lines, as
// Google's does.
func checkInput(j *job, input io.Reader, paid io.Writer) error {
	lines := lineReader{r: bufio.NewReaderSize(input, 1<<20)}
	p := parser{generate: j.Generate, vertex: j.Vertex != nil}
	var bad []string
	more := 0
	var entry []byte
	for {
		b, err := lines.read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errorf(400, "Error on line %d: %v", lines.number, err)
		}
		var it *item
		if utf8.Valid(b) {
			it, err = p.line(b)
		} else {
			err = errors.New("invalid UTF-8")
		}
		if err == nil && len(it.model) > 0 && string(it.model) != "models/"+j.Model {
			// Google's reply for the name of another model is unknown.
			err = fmt.Errorf("model '%s' is not the job's, 'models/%s'", it.model, j.Model)
		}
		if err != nil {
			if len(bad) < listedErrors {
				bad = append(bad, fmt.Sprintf("Error on line %d: %v", lines.number, err))
			} else {
				more++
			}
			continue
		}
		j.Requests++
		j.Tokens += it.tokens(j.Model)
		entry = appendPaid(entry[:0], textHash(j.Model, it), it)
		if _, err := paid.Write(entry); err != nil {
			return err
		}
	}
	if more > 0 {
		bad = append(bad, fmt.Sprintf("and %d more lines", more))
	}
	if bad != nil {
		return errorf(400, "%s", strings.Join(bad, "\n"))
	}
	if j.Requests == 0 {
		return errorf(400, "the input holds no request")
	}
	return nil
}
