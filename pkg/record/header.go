package record

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
)

// A batch's name becomes part of a file name, a display name and a URL.
var batchNames = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// AppendHeader appends the line of a header, with its newline.
func AppendHeader(dst []byte, h Header) []byte {
	line, err := ndjson.Marshal(h)
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	return append(append(dst, line...), '\n')
}

// Space returns the space of the batch, as far as the header says.
func (h *Header) Space() model.Space {
	return model.Space{Model: h.Model, Dim: h.Dim, TaskType: h.TaskType}
}

// A KeySum is a checksum of the keys of a batch that does not depend on their order:
// the sum, modulo 2^64, of the first 8 bytes (big-endian) of the SHA-256 of each key.
type KeySum uint64

// Add adds a key.
func (s *KeySum) Add(key string) {
	hash := sha256.Sum256([]byte(key))
	*s += KeySum(binary.BigEndian.Uint64(hash[:]))
}

// String returns 16 hex digits.
func (s KeySum) String() string { return fmt.Sprintf("%016x", uint64(s)) }

// headerMembers are the values of a header as they are written on the line, nil
// if a member is missing or null.
type headerMembers struct{ batch, count, model, dim, taskType, keys, tokens, tokensMax []byte }

// read reads the present member of w, if a header has a member of that name.
func (m *headerMembers) read(w *ndjson.Walker) {
	switch string(w.Name()) {
	case "batch":
		m.batch = present(w)
	case "count":
		m.count = present(w)
	case "model":
		m.model = present(w)
	case "dim":
		m.dim = present(w)
	case "task_type":
		m.taskType = present(w)
	case "keys":
		m.keys = present(w)
	case "tokens":
		m.tokens = present(w)
	case "tokens_max":
		m.tokensMax = present(w)
	}
}

// maxTokens is more tokens than a batch can have. Sums of such numbers fit into
// an int64.
const maxTokens = 1 << 48

// header checks and decodes the members. Model is bare, and empty if the header
// has no model. Dim is 0 if the header has no dim.
func (m *headerMembers) header() (h Header, err error) {
	for _, s := range []struct {
		name string
		tok  []byte
		to   *string
	}{{"batch", m.batch, &h.Batch}, {"model", m.model, &h.Model}, {"task_type", m.taskType, &h.TaskType}, {"keys", m.keys, &h.Keys}} {
		inner, err := inside(s.name, s.tok)
		if err != nil {
			return h, fmt.Errorf("header: %w", err)
		}
		*s.to = string(ndjson.Unescape(inner))
	}
	if h.Batch == "" {
		return h, errors.New("a header without the name of its batch")
	}
	if len(h.Batch) > 128 || !batchNames.MatchString(h.Batch) {
		return h, fmt.Errorf("batch %.200q: a name is 1 to 128 letters, digits, dots, dashes and underscores", h.Batch)
	}
	if h.Count, err = strconv.Atoi(string(m.count)); err != nil || h.Count < 0 {
		return h, fmt.Errorf("header of batch %s: count is %.20s, not a number of lines", h.Batch, m.count)
	}
	if m.dim != nil {
		if h.Dim, err = strconv.Atoi(string(m.dim)); err != nil || h.Dim < 1 || h.Dim > model.MaxDim {
			return h, fmt.Errorf("header of batch %s: dim is %.20s, not a number of values from 1 to %d", h.Batch, m.dim, model.MaxDim)
		}
	}
	for _, n := range []struct {
		name string
		tok  []byte
		to   *int64
	}{{"tokens", m.tokens, &h.Tokens}, {"tokens_max", m.tokensMax, &h.TokensMax}} {
		if n.tok == nil {
			continue
		}
		if *n.to, err = strconv.ParseInt(string(n.tok), 10, 64); err != nil || *n.to < 0 || *n.to > maxTokens {
			return h, fmt.Errorf("header of batch %s: %s is %.20s, not a number of tokens", h.Batch, n.name, n.tok)
		}
	}
	if h.Model != "" {
		if h.Model, err = model.Name(h.Model); err != nil {
			return h, fmt.Errorf("header of batch %s: %w", h.Batch, err)
		}
	}
	return h, nil
}

// present returns the present value of w, or nil for null.
func present(w *ndjson.Walker) []byte {
	if w.Kind() == 'n' {
		return nil // Next checks that the value is null
	}
	return w.Raw()
}

// inside returns what is between the quotes of a string, or nil if that is
// empty.
func inside(name string, tok []byte) ([]byte, error) {
	switch {
	case tok == nil:
		return nil, nil
	case tok[0] != '"':
		return nil, fmt.Errorf("%s is %.40s; it must be a string", name, tok)
	case len(tok) == 2:
		return nil, nil
	}
	return tok[1 : len(tok)-1], nil
}
