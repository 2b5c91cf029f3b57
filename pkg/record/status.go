package record

import (
	"encoding/json"
	"strconv"
	"strings"

	"gbatch/pkg/ndjson"
)

// googleStatus reads an error member of Google's: an object with a code, a name
// and a message, or a string. Anything else is the message as it stands. A code
// may also be a string, of a number or of a name. It returns nil for null and
// for OK, which are not errors. value is checked JSON; nil counts as null.
func googleStatus(value []byte) *Status {
	if value == nil || value[0] == 'n' {
		return nil
	}
	s, coded := new(Status), false
	switch value[0] {
	case '"':
		s.Message = words(value)
		if s.Message == "" {
			return nil
		}
	case '{':
		var doc struct{ Code, Status, Message json.RawMessage }
		if ndjson.Unmarshal(value, &doc) != nil {
			break
		}
		s.Status, s.Message = words(doc.Status), words(doc.Message)
		code := strings.Trim(string(doc.Code), `"`)
		n, err := strconv.Atoi(code)
		if coded = err == nil; coded {
			s.Code = n
		} else if s.Status == "" && code != "null" {
			s.Status = code
		}
		if s.Status == "OK" || s.Status == "" && s.Code == 0 && (coded || s.Message == "") {
			return nil
		}
	}
	if s.Message == "" {
		s.Message = string(value)
	}
	return s
}

// words is a JSON string, or another token as it stands, or "" for none.
func words(tok json.RawMessage) string {
	switch {
	case len(tok) == 0 || tok[0] == 'n':
		return ""
	case tok[0] == '"':
		return string(ndjson.Unescape(tok[1 : len(tok)-1]))
	}
	return string(tok)
}
