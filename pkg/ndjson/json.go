package ndjson

import gojson "github.com/goccy/go-json"

// Marshal encodes v as encoding/json does, but faster, and leaves <, > and & as
// they are.
func Marshal(v any) ([]byte, error) {
	return gojson.MarshalWithOption(v, gojson.DisableHTMLEscape())
}

// Unmarshal checks one object as a [Walker] does, and then decodes it into v as
// encoding/json does. Three traps of encoding/json remain: a name that differs
// from the field's only in case matches, null leaves a field as it was, and so
// does a missing member. So v must be zero, and a reader that a trap would harm
// uses a Walker.
func Unmarshal(line []byte, v any) error {
	var w Walker
	for w.Begin(line); w.Next(); {
	}
	if w.Err() != nil {
		return w.Err()
	}
	return gojson.Unmarshal(line, v)
}
