package record

import (
	"bytes"
	"errors"
	"fmt"

	"gbatch/pkg/ndjson"
)

// A RawChunk is a chunk whose strings were checked but not decoded, so that a
// filter can copy them unchanged. ID, Text, Title and Context are the insides of
// JSON strings, nil if they are empty. All are valid as long as the line is.
type RawChunk struct {
	ID, Text, Title, Context []byte
	Key                      []byte // the decoded ID
	End                      bool   // the line is an [End], and the other fields are empty
}

// Parse reads a line that is a chunk, an end or, if h is not nil, a header, which it
// decodes into h. It reports whether the line is a header. An id may also be a
// whole number: then its digits are the id.
func (c *RawChunk) Parse(line []byte, h *Header) (header bool, err error) {
	*c = RawChunk{}
	var id, text, title, context, end []byte
	var head headerMembers
	var w ndjson.Walker
	for w.Begin(line); w.Next(); {
		switch string(w.Name()) {
		case "id":
			id = present(&w)
		case "text":
			text = present(&w)
		case "title":
			title = present(&w)
		case "context":
			context = present(&w)
		case "end":
			end = present(&w)
		default:
			head.read(&w)
		}
	}
	switch {
	case w.Err() != nil:
		return false, w.Err()
	case id == nil && end != nil && head.count == nil:
		if c.End = string(end) == "true"; !c.End {
			err = fmt.Errorf("end is %.40s; it must be true", end)
		}
		return false, err
	case id == nil && h == nil:
		return false, errors.New("no id: a chunk has id and text")
	case id == nil && head.count == nil:
		return false, errors.New("no id: a chunk has id and text, a batch header has count")
	case id == nil:
		*h, err = head.header()
		return true, err
	}
	if c.ID, err = chunkID(id); err != nil {
		return false, err
	}
	c.Key = ndjson.Unescape(c.ID)
	if bytes.HasPrefix(c.Key, []byte(CanaryPrefix)) {
		return false, fmt.Errorf("key %.100q: ids that begin with %s are reserved: give the chunk another id", c.Key, CanaryPrefix)
	}
	if c.Text, err = inside("text", text); err == nil {
		if c.Title, err = inside("title", title); err == nil {
			c.Context, err = inside("context", context)
		}
	}
	switch {
	case err != nil:
	case c.Text != nil || c.Context != nil:
		return false, nil
	case text == nil:
		err = errors.New("no text: a chunk has id and text")
	default:
		err = errors.New("the text is empty: leave the chunk out or give it text")
	}
	return false, fmt.Errorf("key %.100q: %w", c.Key, err)
}

// chunkID returns an id as it is written between its quotes.
func chunkID(tok []byte) ([]byte, error) {
	if tok[0] != '"' {
		for i, d := range tok {
			if (d < '0' || d > '9') && (d != '-' || i > 0) {
				return nil, fmt.Errorf("the id is %.40s; it must be a string or a whole number", tok)
			}
		}
		return tok, nil
	}
	if len(tok) == 2 {
		return nil, errors.New("the id is empty: give the chunk an id")
	}
	return tok[1 : len(tok)-1], nil
}

// Parse reads a line that is a chunk or an end.
func (c *Chunk) Parse(line []byte) (end bool, err error) {
	var raw RawChunk
	if _, err := raw.Parse(line, nil); err != nil {
		return false, err
	}
	decode := func(inner []byte) string { return string(ndjson.Unescape(inner)) }
	*c = Chunk{ID: string(raw.Key), Text: decode(raw.Text), Title: decode(raw.Title), Context: decode(raw.Context)}
	return raw.End, nil
}

// AppendChunk appends the line of a chunk without context, with its newline. The
// strings must be valid UTF-8.
func AppendChunk(dst []byte, id, text, title string) []byte {
	dst = ndjson.AppendString(append(dst, `{"id":`...), id)
	dst = ndjson.AppendString(append(dst, `,"text":`...), text)
	if title != "" {
		dst = ndjson.AppendString(append(dst, `,"title":`...), title)
	}
	return append(dst, "}\n"...)
}
