package record

import (
	"strconv"

	"gbatch/pkg/ndjson"
)

// googleStatus reads one of Google's error members: an object with a code, a
// name and a message, or a string. Any other value becomes the message
// unchanged. A code may also be a string, with a number or a name. It returns
// nil for nil and for OK, which is not an error. value is checked JSON.
func googleStatus(value []byte) *Status {
	if value == nil {
		return nil
	}
	s := new(Status)
	if value[0] != '{' {
		s.Message = words(value)
		if s.Message == "" {
			return nil
		}
		return s
	}
	code := ""
	var w ndjson.Walker
	for w.Begin(value); w.Next(); {
		switch string(w.Name()) {
		case "code":
			code = words(present(&w))
		case "status":
			s.Status = words(present(&w))
		case "message":
			s.Message = words(present(&w))
		}
	}
	n, err := strconv.Atoi(code)
	if s.Code = n; err != nil && s.Status == "" {
		s.Status = code
	}
	if s.Status == "OK" || s.Status == "" && s.Code == 0 && (code != "" || s.Message == "") {
		return nil
	}
	if s.Message == "" {
		s.Message = string(value)
	}
	return s
}

// words decodes a JSON string, and returns any other value unchanged.
func words(value []byte) string {
	if len(value) > 0 && value[0] == '"' {
		value = ndjson.Unescape(value[1 : len(value)-1])
	}
	return string(value)
}
