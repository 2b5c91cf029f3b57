package ndjson

import gojson "github.com/goccy/go-json"

// Marshal encodes v like encoding/json, but faster, and does not escape <, > and
// &.
func Marshal(v any) ([]byte, error) {
	return gojson.MarshalWithOption(v, gojson.DisableHTMLEscape())
}

// Unmarshal checks one object like a [Walker], and then decodes it into v like
// encoding/json. Three traps of encoding/json remain: a name that differs from
// the field's only in case matches, null does not change a field, and a missing
// member does not either. So v must be zero. A caller for which this is a
// problem uses a Walker.
func Unmarshal(line []byte, v any) error {
	var w Walker
	for w.Begin(line); w.Next(); {
	}
	if w.Err() != nil {
		return w.Err()
	}
	return gojson.Unmarshal(line, v)
}
