package record

import (
	"errors"
	"fmt"

	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
)

// AppendSpace appends the line of a space record, with its newline.
func AppendSpace(dst []byte, s model.Space) []byte {
	line, err := ndjson.Marshal(Space{SpaceMembers(s)})
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	return append(append(dst, line...), '\n')
}

// ParseSpace reads a line that may be a space record. If the line is another
// record, or is not valid, is is false.
func ParseSpace(line []byte) (s model.Space, is bool, err error) {
	var value []byte
	var w ndjson.Walker
	for w.Begin(line); w.Next(); {
		switch string(w.Name()) {
		case "space":
			value = present(&w)
		case "id", "key", "count", "job":
			return s, false, nil
		}
	}
	if w.Err() != nil || value == nil {
		return s, false, nil
	}
	var members SpaceMembers
	if value[0] != '{' {
		return s, true, fmt.Errorf("space is %.40s; it must be an object", value)
	}
	if err := ndjson.Unmarshal(value, &members); err != nil {
		return s, true, fmt.Errorf("space: %w", err)
	}
	if members.Model == "" || members.Dim == 0 {
		return s, true, errors.New("a space needs a model and a dim")
	}
	if s, err = model.Space(members).Checked(); err != nil {
		err = fmt.Errorf("space: %w", err)
	}
	return s, true, err
}
