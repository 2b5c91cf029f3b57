package record

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	"gbatch/pkg/ndjson"
	"gbatch/pkg/vector"
)

// A Response is one line of Google's result file: the vector of a key, or its
// error. The members stand in any order:
//
//	{"response":{"tokenCount":"3","embedding":{"values":[-0.034,0.0025]}},"key":"chunk_123"}
//	{"key":"chunk_456","error":{"code":13,"message":"An internal error has occurred"}}
type Response struct {
	Key    string    // escapes resolved
	HasKey bool      // false where Google was given no key; Key is empty then
	Values []float32 // valid until the next Parse; nil beside Err
	Tokens int64     // from tokenCount or usageMetadata.promptTokenCount; -1 where neither is a count
	Err    *Status   // of the line or inside its response; it rules out a vector
}

// An AnswerError tells of a line that is good JSON, and may have a key, but has
// neither an error nor a vector of float32s.
type AnswerError struct {
	Key    string // empty where the line has none
	Reason string
}

func (e *AnswerError) Error() string {
	if e.Key == "" {
		return "the answer " + e.Reason
	}
	return fmt.Sprintf("key %q: the answer %s", e.Key, e.Reason)
}

// A ResponseParser reads Google's result lines. It is for one goroutine.
type ResponseParser struct {
	r      Response
	values []float32
}

// Parse reads a line. The Response is the parser's own until the next call.
//
// The line is held to what ndjson.Object wants: nothing but one object, no
// member twice in the objects that are read, valid UTF-8, whole surrogate
// pairs, limited nesting. Members that are not known are skipped, null is as
// good as absent, and names are compared with their escapes resolved and case
// and all. Values are read as vector.AppendFloats does, once.
//
// Where the line is good but the answer is not, the error is an *AnswerError.
func (p *ResponseParser) Parse(line []byte) (*Response, error) {
	if p.fast(line) {
		return &p.r, nil
	}
	if err := p.slow(line); err != nil {
		return nil, err
	}
	return &p.r, nil
}

func (p *ResponseParser) reset() {
	if p.values == nil {
		p.values = make([]float32, 0, 1024)
	}
	p.r = Response{Tokens: -1}
}

// slow reads any line, and says what is wrong with it.
func (p *ResponseParser) slow(line []byte) error {
	p.reset()
	reason := "" // why there is no vector
	tokens, usage := int64(-1), int64(-1)
	object := func(name, value []byte, f func(name, value []byte) error) error {
		switch value[0] {
		case '{':
			if err := ndjson.Object(value, f); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		case 'n':
		default:
			reason = fmt.Sprintf("has no vector: %s is no object", name)
		}
		return nil
	}
	err := ndjson.Object(line, func(name, value []byte) (err error) {
		switch string(name) {
		case "key":
			if value[0] == 'n' {
				return nil
			}
			p.r.HasKey = true
			if p.r.Key, err = ndjson.String(value); err != nil {
				return fmt.Errorf("the key is %.40s; it must be a string", value)
			}
		case "error":
			if s := status(value); s != nil {
				p.r.Err = s
			}
		case "response":
			return object(name, value, func(name, value []byte) error {
				switch string(name) {
				case "tokenCount":
					tokens = count(value)
				case "usageMetadata":
					return object(name, value, func(name, value []byte) error {
						if string(name) == "promptTokenCount" {
							usage = count(value)
						}
						return nil
					})
				case "error":
					if p.r.Err == nil {
						p.r.Err = status(value)
					}
				case "embedding":
					return object(name, value, func(name, value []byte) error {
						if string(name) != "values" || value[0] == 'n' {
							return nil
						}
						var err error
						if p.r.Values, _, err = vector.AppendFloats(p.values[:0], value); err != nil {
							p.r.Values = nil
							reason = fmt.Sprintf("has no vector: values: %v", err)
							return nil
						}
						p.values = p.r.Values
						return nil
					})
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if p.r.Tokens = tokens; tokens < 0 {
		p.r.Tokens = usage
	}
	switch {
	case p.r.Err != nil:
		p.r.Values = nil
	case p.r.Values == nil:
		if reason == "" {
			reason = "has neither a vector nor an error"
		}
		return &AnswerError{p.r.Key, reason}
	}
	return nil
}

// count reads a token count: a number, or a string of one as Google writes
// 64-bit integers. It returns -1 for anything else: a count is not worth a vector.
func count(value []byte) int64 {
	if value[0] == '"' {
		s, _ := ndjson.String(value)
		value = []byte(s)
	}
	n, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil {
		return -1
	}
	return int64(n)
}

// status reads an error member: Google's object, a string, or whatever else
// there is, which is the message then. It returns nil for null.
func status(value []byte) *Status {
	s := new(Status)
	switch value[0] {
	case 'n':
		return nil
	case '"':
		s.Message, _ = ndjson.String(value)
	case '{':
		if ndjson.Unmarshal(value, s) != nil {
			*s = Status{}
		}
	}
	if s.Message == "" {
		s.Message = string(value)
	}
	return s
}

// fast reads a line with a vector and without an error or anything that is
// refused, and reports whether it is one. What it returns false for is left to
// slow, so it need not tell why, nor know every form.
func (p *ResponseParser) fast(line []byte) bool {
	p.reset()
	var f answer
	end := p.object(line, blanks(line, 0), inLine, &f)
	if end < 0 || blanks(line, end) != len(line) || p.r.Values == nil {
		return false
	}
	if p.r.Tokens = f.tokens - 1; f.tokens == 0 {
		p.r.Tokens = f.usage - 1
	}
	return true
}

// An answer is what fast finds besides the key and the vector.
type answer struct{ tokens, usage int64 } // counts plus one, 0 where there is none

// The objects that fast looks into.
const (
	inLine = iota
	inResponse
	inUsage
	inEmbedding
)

// object reads the object at i, which is of the given kind, and returns the
// place behind it, or -1.
func (p *ResponseParser) object(b []byte, i, kind int, f *answer) int {
	if i >= len(b) || b[i] != '{' {
		return -1
	}
	var seen [8][]byte // a name twice is for slow to refuse
	n := 0
	i = blanks(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for ; ; n++ {
		if i >= len(b) || b[i] != '"' || n == len(seen) {
			return -1
		}
		end, plain := skipString(b, i+1)
		if end < 0 || !plain {
			return -1
		}
		name := b[i+1 : end-1]
		for _, other := range seen[:n] {
			if string(other) == string(name) {
				return -1
			}
		}
		seen[n] = name
		i = blanks(b, end)
		if i >= len(b) || b[i] != ':' {
			return -1
		}
		i = blanks(b, i+1)
		switch kind {
		case inLine:
			switch string(name) {
			case "key":
				i = p.key(b, i)
			case "response":
				i = p.object(b, i, inResponse, f)
			case "error":
				return -1
			default:
				i = skip(b, i, 1)
			}
		case inResponse:
			switch string(name) {
			case "tokenCount":
				i = number(b, i, &f.tokens)
			case "usageMetadata":
				i = p.object(b, i, inUsage, f)
			case "embedding":
				i = p.object(b, i, inEmbedding, f)
			case "error":
				return -1
			default:
				i = skip(b, i, 2)
			}
		case inUsage:
			switch string(name) {
			case "promptTokenCount":
				i = number(b, i, &f.usage)
			default:
				i = skip(b, i, 3)
			}
		case inEmbedding:
			switch string(name) {
			case "values":
				i = p.vector(b, i)
			default:
				i = skip(b, i, 3)
			}
		}
		if i < 0 {
			return -1
		}
		i = blanks(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = blanks(b, i+1)
		case i < len(b) && b[i] == '}':
			return i + 1
		default:
			return -1
		}
	}
}

// key reads the key at i.
func (p *ResponseParser) key(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	end, plain := skipString(b, i+1)
	switch {
	case end < 0:
		return -1
	case plain:
		p.r.Key = string(b[i+1 : end-1])
	default:
		var err error
		if p.r.Key, err = ndjson.String(b[i:end]); err != nil {
			return -1
		}
	}
	p.r.HasKey = true
	return end
}

// vector reads the array at i.
func (p *ResponseParser) vector(b []byte, i int) int {
	values, n, err := vector.AppendFloats(p.values[:0], b[i:])
	if err != nil {
		return -1
	}
	p.values, p.r.Values = values, values
	return i + n
}

// number reads a count of up to 18 digits at i, with quotes or without, and sets
// *n to it plus one.
func number(b []byte, i int, n *int64) int {
	quoted := i < len(b) && b[i] == '"'
	if quoted {
		i++
	}
	v, end := digits(b, i)
	if end == i || end > i+18 || b[i] == '0' && end > i+1 {
		return -1
	}
	if quoted {
		if end == len(b) || b[end] != '"' {
			return -1
		}
		end++
	}
	*n = v + 1
	return end
}

// digits returns the number that the digits at i are, up to 18 of them, and the
// place behind them.
func digits(b []byte, i int) (v int64, end int) {
	for end = i; end < len(b) && b[end]-'0' <= 9; end++ {
		v = v*10 + int64(b[end]-'0')
	}
	return v, end
}

// blanks returns the first place from i on that is not JSON white space.
func blanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// skip returns the place behind the value at i, inside depth objects, or -1
// where it is not valid or unusual.
func skip(b []byte, i, depth int) int {
	if i >= len(b) {
		return -1
	}
	switch c := b[i]; c {
	case '"':
		end, _ := skipString(b, i+1)
		return end
	case '{', '[':
		if depth == 32 { // ndjson allows more
			return -1
		}
		i = blanks(b, i+1)
		if i < len(b) && b[i] == c+2 { // } or ]
			return i + 1
		}
		for {
			if c == '{' {
				if i >= len(b) || b[i] != '"' {
					return -1
				}
				if i, _ = skipString(b, i+1); i < 0 {
					return -1
				}
				i = blanks(b, i)
				if i >= len(b) || b[i] != ':' {
					return -1
				}
				i = blanks(b, i+1)
			}
			if i = skip(b, i, depth+1); i < 0 {
				return -1
			}
			i = blanks(b, i)
			switch {
			case i < len(b) && b[i] == ',':
				i = blanks(b, i+1)
			case i < len(b) && b[i] == c+2:
				return i + 1
			default:
				return -1
			}
		}
	case 't':
		return skipWord(b, i, "true")
	case 'f':
		return skipWord(b, i, "false")
	case 'n':
		return skipWord(b, i, "null")
	}
	return skipNumber(b, i)
}

func skipWord(b []byte, i int, word string) int {
	if !bytes.HasPrefix(b[i:], []byte(word)) {
		return -1
	}
	return i + len(word)
}

func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	_, end := digits(b, i)
	if end == i || b[i] == '0' && end > i+1 {
		return -1
	}
	if i = end; i < len(b) && b[i] == '.' {
		if _, end = digits(b, i+1); end == i+1 {
			return -1
		}
		i = end
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if _, end = digits(b, i); end == i {
			return -1
		}
		i = end
	}
	return i
}

// skipString returns the place behind the string whose inside begins at i, and
// whether the inside is what the string stands for. It returns -1 where the
// string is not valid or has surrogates.
func skipString(b []byte, i int) (end int, plain bool) {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	start := i
	plain = true
	var high uint64 // high bits of what was passed, and of some bytes behind
	for {
		for ; len(b)-i >= 8; i += 8 {
			w := binary.LittleEndian.Uint64(b[i:])
			high |= w
			// The high bit of the lowest byte that is below a blank, a quote or a
			// backslash; those above it may be wrong.
			quote, slash := w^'"'*ones, w^'\\'*ones
			hit := ((w-' '*ones)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & highs
			if hit != 0 {
				i += bits.TrailingZeros64(hit) / 8
				break
			}
		}
		if i >= len(b) {
			return -1, false
		}
		switch c := b[i]; {
		case c == '"':
			if (high&highs != 0) && !utf8.Valid(b[start:i]) {
				return -1, false
			}
			return i + 1, plain
		case c == '\\':
			plain = false
			switch {
			case i+1 < len(b) && strings.IndexByte(`"\/bfnrt`, b[i+1]) >= 0:
				i += 2
			case i+5 < len(b) && b[i+1] == 'u':
				u, err := strconv.ParseUint(string(b[i+2:i+6]), 16, 16)
				if err != nil || u>>11 == 0xd800>>11 {
					return -1, false
				}
				i += 6
			default:
				return -1, false
			}
		case c < ' ':
			return -1, false
		default: // among the last seven bytes
			high |= uint64(c)
			i++
		}
	}
}

// AppendVectorLine appends the line that stands for a Vector, its newline
// included. It has no batch where batch is empty, and no tokens where they are
// below zero. Key and batch must be valid UTF-8.
func AppendVectorLine(dst []byte, key, batch string, values []float32, tokens int64) []byte {
	dst = append(dst, `{"key":`...)
	dst = ndjson.AppendString(dst, key)
	if batch != "" {
		dst = append(dst, `,"batch":`...)
		dst = ndjson.AppendString(dst, batch)
	}
	dst = append(dst, `,"dim":`...)
	dst = strconv.AppendInt(dst, int64(len(values)), 10)
	dst = append(dst, `,"vector":"`...)
	dst = vector.AppendBase64(dst, values)
	dst = append(dst, '"')
	if tokens >= 0 {
		dst = append(dst, `,"tokens":`...)
		dst = strconv.AppendInt(dst, tokens, 10)
	}
	return append(dst, "}\n"...)
}

// A VectorLine is a Vector with its values.
type VectorLine struct {
	Key    string
	Batch  string    // empty where the line has none
	Values []float32 // as many as the line's dim; the next line's take their place
	Tokens int64     // -1 where the line has none
}

// ParseVectorLine reads a line such as AppendVectorLine writes into v, whose
// Values are reused. The members may stand in any order and form that
// ndjson.Object takes.
func ParseVectorLine(line []byte, v *VectorLine) error {
	if v.fast(line) {
		return nil
	}
	return v.slow(line)
}

func (v *VectorLine) slow(line []byte) error {
	*v = VectorLine{Values: v.Values[:0], Tokens: -1}
	var has bool
	dim := int64(-1)
	err := ndjson.Object(line, func(name, value []byte) (err error) {
		var s *string
		var n *int64
		var text string
		switch string(name) {
		case "key":
			s = &v.Key
		case "batch":
			s = &v.Batch
		case "vector":
			s = &text
		case "dim":
			n = &dim
		case "tokens":
			n = &v.Tokens
		}
		switch {
		case value[0] == 'n':
		case s != nil:
			if *s, err = ndjson.String(value); err != nil {
				return fmt.Errorf("%s is %.40s; it must be a string", name, value)
			}
			if s == &text {
				has = true
				if v.Values, err = vector.DecodeBase64(v.Values[:0], []byte(text)); err != nil {
					return fmt.Errorf("vector: %w", err)
				}
			}
		case n != nil:
			if *n, err = strconv.ParseInt(string(value), 10, 64); err != nil || *n < 0 {
				return fmt.Errorf("%s is %.40s; it must be a whole number, 0 or more", name, value)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case !has:
		return errors.New("the line has no vector")
	case v.Key == "":
		return errors.New("the vector has no key")
	case dim < 0:
		return fmt.Errorf("key %q: the vector has no dim", v.Key)
	case dim != int64(len(v.Values)):
		return fmt.Errorf("key %q: dim is %d, but the vector has %d values", v.Key, dim, len(v.Values))
	}
	return nil
}

// fast reads a line just as AppendVectorLine writes it, unless a string has
// escapes, and reports whether it is one.
func (v *VectorLine) fast(line []byte) bool {
	key, rest, ok := plainMember(line, `{"key":"`)
	if !ok || len(key) == 0 {
		return false
	}
	batch, rest, _ := plainMember(rest, `,"batch":"`)
	rest, ok = bytes.CutPrefix(rest, []byte(`,"dim":`))
	dim, end := digits(rest, 0)
	if !ok || end == 0 || end > 7 || rest[0] == '0' && end > 1 {
		return false
	}
	rest, ok = bytes.CutPrefix(rest[end:], []byte(`,"vector":"`))
	size := base64.StdEncoding.EncodedLen(4 * int(dim))
	if !ok || len(rest) <= size || rest[size] != '"' {
		return false
	}
	values, err := vector.DecodeBase64(v.Values[:0], rest[:size]) // so many characters are dim values
	if err != nil {
		return false
	}
	tokens := int64(-1)
	rest = rest[size+1:]
	if number, ok := bytes.CutPrefix(rest, []byte(`,"tokens":`)); ok {
		tokens, end = digits(number, 0)
		if end == 0 || end > 18 || number[0] == '0' && end > 1 {
			return false
		}
		rest = number[end:]
	}
	if len(rest) == 0 || rest[0] != '}' || blanks(rest, 1) != len(rest) {
		return false
	}
	v.Key, v.Values, v.Tokens = string(key), values, tokens
	if v.Batch != string(batch) { // most often it is that of the line before
		v.Batch = string(batch)
	}
	return true
}

// plainMember cuts a string without escapes off the start of line, with the
// prefix before it and the quote behind.
func plainMember(line []byte, prefix string) (s, rest []byte, ok bool) {
	if !bytes.HasPrefix(line, []byte(prefix)) {
		return nil, line, false
	}
	end, plain := skipString(line, len(prefix))
	if !plain {
		return nil, line, false
	}
	return line[len(prefix) : end-1], line[end:], true
}
