package record

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/vector"
)

// AppendVectorLine appends the line of a Vector, with its newline. It leaves out
// an empty batch and a negative token count. key and batch must be valid UTF-8.
func AppendVectorLine(dst []byte, key, batch string, values []float32, tokens int64) []byte {
	dst = append(appendKey(dst, key, batch, len(values)), '"')
	dst = append(vector.AppendBase64(dst, values), '"')
	return appendTokens(dst, tokens)
}

// VectorLine returns the function that appends the line of a vector: as an array of
// numbers, or as [AppendVectorLine] does.
func VectorLine(array bool) func(dst []byte, key, batch string, values []float32, tokens int64) []byte {
	if array {
		return appendArrayLine
	}
	return AppendVectorLine
}

// appendArrayLine is AppendVectorLine with the vector as an array of numbers.
func appendArrayLine(dst []byte, key, batch string, values []float32, tokens int64) []byte {
	dst = vector.AppendJSON(appendKey(dst, key, batch, len(values)), values)
	return appendTokens(dst, tokens)
}

// appendKey appends the line up to the vector.
func appendKey(dst []byte, key, batch string, dim int) []byte {
	dst = append(dst, `{"key":`...)
	dst = ndjson.AppendString(dst, key)
	if batch != "" {
		dst = append(dst, `,"batch":`...)
		dst = ndjson.AppendString(dst, batch)
	}
	dst = append(dst, `,"dim":`...)
	dst = strconv.AppendInt(dst, int64(dim), 10)
	return append(dst, `,"vector":`...)
}

// appendTokens appends the line behind the vector.
func appendTokens(dst []byte, tokens int64) []byte {
	if tokens >= 0 {
		dst = append(dst, `,"tokens":`...)
		dst = strconv.AppendInt(dst, tokens, 10)
	}
	return append(dst, "}\n"...)
}

// An Answer is one line of gbatch-fetch's output: a vector or an error of a key,
// or a job.
type Answer struct {
	Key    string
	Batch  string
	Values []float32 // of a vector, dim of them; valid until the next Parse
	Tokens int64     // -1 if the line has none
	Err    *Status
	Job    *Job
}

// An AnswerParser reads answers. It is not safe for concurrent use.
type AnswerParser struct {
	walker ndjson.Walker
	values []float32
	batch  string // the last batch; usually the next line has the same
}

// Parse reads a line.
func (p *AnswerParser) Parse(line []byte) (Answer, error) {
	a := Answer{Tokens: -1}
	var job bool
	var failure []byte
	var values []float32 // not nil if there is a vector
	var wrong error
	dim := int64(-1)
	w := &p.walker
	for w.Begin(line); w.Next(); {
		if w.Kind() == 'n' {
			continue
		}
		ok := true
		switch string(w.Name()) {
		case "job":
			job = true
		case "error":
			failure = w.Raw()
		case "key":
			var text []byte
			text, ok = w.Text()
			a.Key = string(text)
		case "batch":
			var text []byte
			if text, ok = w.Text(); string(text) != p.batch {
				p.batch = string(text)
			}
			a.Batch = p.batch
		case "dim":
			dim, ok = w.Count()
		case "tokens":
			a.Tokens, ok = w.Count()
		case "vector":
			var err error
			if values, ok, err = p.vector(dim); wrong == nil {
				wrong = err
			}
		}
		if !ok && wrong == nil {
			wrong = p.unlike()
		}
	}
	switch {
	case w.Err() != nil:
		return Answer{}, w.Err()
	case job:
		j := new(Job)
		if err := ndjson.Unmarshal(line, j); err != nil {
			return Answer{}, err
		}
		return Answer{Batch: j.Batch, Job: j}, nil
	case wrong != nil:
		return Answer{}, wrong
	case failure != nil:
		if a.Key == "" {
			return Answer{}, errors.New("the error has no key")
		}
		a.Tokens, a.Err = -1, new(Status)
		if err := ndjson.Unmarshal(failure, a.Err); err != nil {
			return Answer{}, fmt.Errorf("key %.100q: the error is %.40s: %w", a.Key, failure, err)
		}
		return a, nil
	case values == nil:
		return Answer{}, errors.New("not a vector, an error or a job record")
	case a.Key == "":
		return Answer{}, errors.New("the vector has no key")
	case dim < 0:
		return Answer{}, fmt.Errorf("key %.100q: the vector has no dim", a.Key)
	case dim != int64(len(values)):
		return Answer{}, fmt.Errorf("key %.100q: dim is %d, but the vector has %d values", a.Key, dim, len(values))
	}
	a.Values = values
	return a, nil
}

// unlike returns the error for a value whose type is wrong for its member.
func (p *AnswerParser) unlike() error {
	name, kind := p.walker.Name(), "a string"
	switch string(name) {
	case "dim", "tokens":
		kind = "a whole number, 0 or more"
	case "vector":
		kind = "base64 or an array of numbers"
	}
	return fmt.Errorf("%s is %.40s; it must be %s", name, p.walker.Raw(), kind)
}

// vector reads the values of the present string or array. dim is their number if the
// line has given it before, else it is negative.
func (p *AnswerParser) vector(dim int64) (values []float32, ok bool, err error) {
	if p.values == nil {
		p.values = make([]float32, 0, 1024)
	}
	w := &p.walker
	if w.Kind() == '[' {
		values, n, err := vector.AppendFloats(p.values[:0], w.Rest())
		if err != nil { // Next reports whether the value is valid JSON
			return nil, true, fmt.Errorf("vector: %w", err)
		}
		w.Took(n)
		p.values = values
		return values, true, nil
	}
	if w.Kind() == '"' { // base64 needs no escapes, and DecodeBase64 refuses everything that is not allowed in a string
		text := w.Rest()[1:]
		n := base64.StdEncoding.EncodedLen(4 * int(min(max(dim, 0), model.MaxDim)))
		if n >= len(text) || text[n] != '"' {
			n = bytes.IndexByte(text, '"')
		}
		if n >= 0 {
			if values, err = vector.DecodeBase64(p.values[:0], text[:n]); err == nil {
				w.Took(n + 2)
				p.values = values
				return values, true, nil
			}
		}
	}
	text, ok := w.Text()
	if !ok {
		return nil, false, nil
	}
	if values, err = vector.DecodeBase64(p.values[:0], text); err != nil {
		return nil, true, fmt.Errorf("vector: %w", err)
	}
	p.values = values
	return values, true, nil
}

// ParseJob reads a line. If the line is valid JSON without a member job, it
// returns nil.
func ParseJob(line []byte) (*Job, error) { return parseWith[Job](line, "job") }

// ParseFile reads a line. If the line is valid JSON without a member file, it
// returns nil.
func ParseFile(line []byte) (*File, error) { return parseWith[File](line, "file") }

// parseWith decodes a line. If the line has no such member, it returns nil.
func parseWith[T any](line []byte, member string) (*T, error) {
	is := false
	var w ndjson.Walker
	for w.Begin(line); w.Next(); {
		is = is || string(w.Name()) == member
	}
	if w.Err() != nil || !is {
		return nil, w.Err()
	}
	v := new(T)
	if err := ndjson.Unmarshal(line, v); err != nil {
		return nil, err
	}
	return v, nil
}
