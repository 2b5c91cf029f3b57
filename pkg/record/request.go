package record

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"gbatch/pkg/ndjson"
)

// CanaryPrefix is the beginning of the keys of requests that are sent a second
// time, to check whether answers come back under their own keys. The rest of
// such a key is the canary's number, a colon and the key that the canary
// repeats. No chunk may have such an id.
const CanaryPrefix = "gbatch-canary:"

// CanaryOf returns the key that a canary repeats.
func CanaryOf(key string) (original string, ok bool) {
	if key, ok = strings.CutPrefix(key, CanaryPrefix); !ok {
		return "", false
	}
	_, original, _ = strings.Cut(key, ":")
	return original, true
}

// A Request is a line of Google's batch file, with what gbatch-submit must know
// about it.
type Request struct {
	Key     string
	Claimed bool   // it was rendered below a header, and is sent only below one
	Line    []byte // the line that is sent, without the member claimed; valid until the next Parse

	key, request []byte // as they are written on the line
	buf          []byte
}

// Parse reads a line that is a request or a header. It decodes a header into h.
// It reports whether the line is a header.
func (r *Request) Parse(line []byte, h *Header) (header bool, err error) {
	*r = Request{Line: line, buf: r.buf}
	var head headerMembers
	var claimed []byte
	var w ndjson.Walker
	for w.Begin(line); w.Next(); {
		switch string(w.Name()) {
		case "key":
			r.key = present(&w)
		case "request":
			r.request = present(&w)
		case "claimed":
			claimed = present(&w)
		default:
			head.read(&w)
		}
	}
	switch {
	case w.Err() != nil:
		return false, w.Err()
	case r.request == nil && head.count != nil:
		*h, err = head.header()
		return true, err
	case r.request == nil || r.request[0] != '{':
		return false, errors.New("neither a batch header nor a request")
	}
	key, err := inside("key", r.key)
	if err != nil || key == nil {
		return false, errors.New("a request without a key: key must be a string that is not empty")
	}
	r.Key = string(ndjson.Unescape(key))
	if strings.HasPrefix(r.Key, CanaryPrefix) {
		return false, fmt.Errorf("key %.100q: %s is reserved", r.Key, CanaryPrefix)
	}
	if claimed == nil {
		return false, nil
	}
	if string(claimed) != "true" {
		return false, fmt.Errorf("key %.100q: claimed is %.40s; it must be true", r.Key, claimed)
	}
	r.Claimed = true
	r.buf = appendRequest(r.buf[:0], r.key, r.request)
	r.Line = r.buf
	return false, nil
}

// Dim returns the number of values that the request asks for. The number may be
// at the top level or in embedContentConfig, in either spelling of proto JSON.
// Dim returns 0 if the request does not say.
func (r *Request) Dim() (dim int, err error) {
	var w ndjson.Walker
	w.Begin(r.request)
	if dim, err = askedDim(&w); err == nil {
		err = w.Err()
	}
	return dim, err
}

func askedDim(w *ndjson.Walker) (dim int, err error) {
	inner := 0
	for w.Next() {
		switch name := string(w.Name()); name {
		case "outputDimensionality", "output_dimensionality":
			if dim, err = strconv.Atoi(string(w.Raw())); err != nil {
				return 0, fmt.Errorf("%s is not a number", name)
			}
		case "embedContentConfig", "embed_content_config":
			if w.Enter() {
				if inner, err = askedDim(w); err != nil {
					return 0, err
				}
			}
		}
	}
	if inner > 0 {
		dim = inner
	}
	return dim, nil
}

// CheckVertex refuses a request with options that Vertex AI may ignore in a batch: it
// is known to read those in embed_content_config only.
func (r *Request) CheckVertex() error {
	var w ndjson.Walker
	for w.Begin(r.request); w.Next(); {
		switch name := string(w.Name()); name {
		case "content", "embedContentConfig", "embed_content_config":
		default:
			return fmt.Errorf("the request has %.50q beside its content, where Vertex AI may not read it", name)
		}
	}
	return w.Err()
}

// Canary returns the line of the request with the key of canary i.
func (r *Request) Canary(i int) []byte {
	return appendRequest(nil, ndjson.AppendString(nil, CanaryPrefix+strconv.Itoa(i)+":"+r.Key), r.request)
}

// AppendRequestStart appends the start of a request line, up to the request
// itself. The caller appends the request and a closing brace. id is the inside
// of a checked JSON string. claimed is true if there is a header.
func AppendRequestStart(dst, id []byte, claimed bool) []byte {
	dst = append(dst, `{"key":"`...)
	dst = append(dst, id...)
	if claimed {
		return append(dst, `","claimed":true,"request":`...)
	}
	return append(dst, `","request":`...)
}

// appendRequest appends the line that is sent to Google. key and request are
// checked JSON.
func appendRequest(dst, key, request []byte) []byte {
	dst = append(append(dst, `{"key":`...), key...)
	dst = append(append(dst, `,"request":`...), request...)
	return append(dst, '}')
}
