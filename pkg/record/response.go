package record

import (
	"fmt"
	"strconv"

	"gbatch/pkg/ndjson"
	"gbatch/pkg/vector"
)

// A Response is one line of Google's result file: the vector or the error of a
// key. The members are in any order:
//
//	{"response":{"tokenCount":"3","embedding":{"values":[-0.034,0.0025]}},"key":"chunk_123"}
//	{"key":"chunk_456","error":{"code":13,"message":"An internal error has occurred"}}
//
// A line of Vertex AI repeats the request. Its status is empty, or says why there is
// no vector:
//
//	{"key":"chunk_123","request":{…},"status":"","response":{"tokenCount":"3","embedding":{"values":[-0.034]}}}
type Response struct {
	Key    string    // with escapes resolved
	HasKey bool      // false if the line has no key; then Key is empty
	Values []float32 // valid until the next Parse; nil if Err is set
	Tokens int64     // from tokenCount or usageMetadata.promptTokenCount; -1 if neither is a count
	Err    *Status   // of the line or inside its response; if it is set, a vector is ignored
}

// An AnswerError is the error of a line that is valid JSON, but has neither an
// error nor a vector of float32 values.
type AnswerError struct {
	Key    string // empty if the line has none
	Reason string
}

func (e *AnswerError) Error() string {
	if e.Key == "" {
		return "the answer " + e.Reason
	}
	return fmt.Sprintf("key %q: the answer %s", e.Key, e.Reason)
}

// A ResponseParser reads Google's result lines. It is not safe for concurrent
// use.
type ResponseParser struct {
	walker ndjson.Walker
	r      Response
	values []float32
	usage  int64   // the count of usageMetadata
	status *Status // of the line; it counts if there is no vector
	reason string  // why there is no vector
}

// Parse reads a line. The Response is valid until the next call.
//
// The line must satisfy an [ndjson.Walker], which enters the objects on the way
// to the vector. Unknown members are skipped, and null counts as absent.
// [vector.AppendFloats] reads the values.
//
// If the line is valid but the answer is not, the error is an *AnswerError.
func (p *ResponseParser) Parse(line []byte) (*Response, error) {
	if p.values == nil {
		p.values = make([]float32, 0, 1024)
	}
	p.r, p.usage, p.status, p.reason = Response{Tokens: -1}, -1, nil, ""
	w := &p.walker
	for w.Begin(line); w.Next(); {
		switch string(w.Name()) {
		case "key":
			if w.Kind() == 'n' {
				continue
			}
			key, ok := w.Text()
			if !ok && w.Err() == nil {
				return nil, fmt.Errorf("the key is %.40s; it must be a string", w.Raw())
			}
			p.r.Key, p.r.HasKey = string(key), true
		case "error":
			if s := googleStatus(present(w)); s != nil {
				p.r.Err = s
			}
		case "status":
			p.status = googleStatus(present(w))
		case "response":
			if p.enter() {
				p.response()
			}
		}
	}
	if w.Err() != nil {
		return nil, w.Err()
	}
	if p.r.Tokens < 0 {
		p.r.Tokens = p.usage
	}
	if p.r.Err == nil && p.r.Values == nil {
		p.r.Err = p.status
	}
	switch {
	case p.r.Err != nil:
		p.r.Values = nil
	case p.r.Values == nil && p.reason == "":
		return nil, &AnswerError{p.r.Key, "has neither a vector nor an error"}
	case p.r.Values == nil:
		return nil, &AnswerError{p.r.Key, "has no vector: " + p.reason}
	}
	return &p.r, nil
}

// enter enters a value that must be an object, unless it is null.
func (p *ResponseParser) enter() bool {
	if k := p.walker.Kind(); k != '{' && k != 'n' {
		p.reason = string(p.walker.Name()) + " is not an object"
	}
	return p.walker.Enter()
}

func (p *ResponseParser) response() {
	w := &p.walker
	for w.Next() {
		switch string(w.Name()) {
		case "tokenCount":
			p.r.Tokens = count(w)
		case "usageMetadata":
			if p.enter() {
				for w.Next() {
					if string(w.Name()) == "promptTokenCount" {
						p.usage = count(w)
					}
				}
			}
		case "error":
			if p.r.Err == nil {
				p.r.Err = googleStatus(present(w))
			}
		case "embedding":
			if p.enter() {
				for w.Next() {
					if string(w.Name()) == "values" && w.Kind() != 'n' {
						p.vector()
					}
				}
			}
		}
	}
}

func (p *ResponseParser) vector() {
	values, n, err := vector.AppendFloats(p.values[:0], p.walker.Rest())
	if err != nil { // Next reports whether the value is valid JSON
		p.reason = fmt.Sprintf("values: %v", err)
		return
	}
	p.walker.Took(n)
	p.values, p.r.Values = values, values
}

// count reads a token count: a number, or a string with a number, which is how
// Google writes 64-bit integers. It returns -1 for anything else: a vector is
// kept even if its count is wrong.
func count(w *ndjson.Walker) int64 {
	if n, ok := w.Count(); ok {
		return n
	}
	text, _ := w.Text()
	n, err := strconv.ParseUint(string(text), 10, 63)
	if err != nil {
		return -1
	}
	return int64(n)
}
