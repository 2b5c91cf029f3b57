package emulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// edit is one change of a JSON document: the member at path gets a value, or is
// removed if value is nil.
type edit struct {
	path  []string
	value json.RawMessage
}

// parseEdit reads PATH=JSON, which sets a member, or PATH, which removes it.
func parseEdit(s string) (edit, error) {
	path, value, sets := strings.Cut(s, "=")
	e := edit{path: strings.Split(path, ".")}
	if slices.Contains(e.path, "") {
		return e, errors.New("a name in the path is empty")
	}
	if sets {
		e.value = json.RawMessage(value)
		if !json.Valid(e.value) {
			return e, errors.New("the value is not JSON")
		}
	}
	return e, nil
}

// apply returns the changed document. All other values keep their order and
// their digits. A document that is not JSON stays as it is.
func (e edit) apply(doc []byte) []byte {
	if !json.Valid(doc) {
		return doc
	}
	return edited(doc, e.path, e.value)
}

func edited(doc json.RawMessage, path []string, value json.RawMessage) json.RawMessage {
	if len(path) == 0 {
		return value
	}
	doc = bytes.TrimSpace(doc)
	switch doc[0] {
	case '[':
		return editedArray(doc, path, value)
	case '{':
		return editedObject(doc, path, value)
	}
	return doc
}

func editedArray(doc json.RawMessage, path []string, value json.RawMessage) json.RawMessage {
	var all, kept []json.RawMessage
	json.Unmarshal(doc, &all)
	at, err := strconv.Atoi(path[0])
	for i, element := range all {
		if path[0] == "*" || err == nil && i == at {
			element = edited(element, path[1:], value)
		}
		if element != nil {
			kept = append(kept, element)
		}
	}
	return slices.Concat([]byte("["), bytes.Join(rawBytes(kept), []byte(",")), []byte("]"))
}

func editedObject(doc json.RawMessage, path []string, value json.RawMessage) json.RawMessage {
	var members []json.RawMessage
	add := func(name string, v json.RawMessage) {
		if v != nil {
			members = append(members, slices.Concat(appendJSON(nil, name), []byte(":"), v))
		}
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.Token() // the brace
	found := false
	for dec.More() {
		name, _ := dec.Token()
		var v json.RawMessage
		dec.Decode(&v)
		if name == path[0] {
			found = true
			v = edited(v, path[1:], value)
		}
		add(name.(string), v)
	}
	if !found && value != nil {
		v := value
		for _, name := range slices.Backward(path[1:]) {
			v = slices.Concat([]byte("{"), appendJSON(nil, name), []byte(":"), v, []byte("}"))
		}
		add(path[0], v)
	}
	return slices.Concat([]byte("{"), bytes.Join(rawBytes(members), []byte(",")), []byte("}"))
}

func rawBytes(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}
