package emulator

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

var edits = []struct{ doc, edit, want string }{
	{`{"b":1.50,"a":{"c":[1,2]}}`, `b=2`, `{"b":2,"a":{"c":[1,2]}}`},
	{`{"b":1.50,"a":{"c":[1,2]}}`, `a.c="x"`, `{"b":1.50,"a":{"c":"x"}}`},
	{`{"b":1.50,"a":{"c":[1,2]}}`, `a.c.1={"d":null}`, `{"b":1.50,"a":{"c":[1,{"d":null}]}}`},
	{`{"b":1.50,"a":{"c":[1,2]}}`, `a.c.*=null`, `{"b":1.50,"a":{"c":[null,null]}}`},
	{`{"b":1.50,"a":{"c":[1,2]}}`, `a.c.0`, `{"b":1.50,"a":{"c":[2]}}`},
	{`{"b":1.50,"a":{"c":[1,2]}}`, `a.c.*`, `{"b":1.50,"a":{"c":[]}}`},
	{`{"b":1.50,"a":{"c":[1,2]}}`, `a`, `{"b":1.50}`},
	{`{"b":1}`, `b`, `{}`},
	{`{}`, `a.b.c=1`, `{"a":{"b":{"c":1}}}`},
	{`{"a":1}`, `x.y`, `{"a":1}`},
	{`{"a":1}`, `a.b=2`, `{"a":1}`},
	{`{"a":[1]}`, `a.7=2`, `{"a":[1]}`},
	{`{"a":1,"a":2}`, `a=3`, `{"a":3,"a":3}`},
	{`[{"a":1},2]`, `*.a=3`, `[{"a":3},2]`},
	{`null`, `a=1`, `null`},
	{` { "a" : 1e400 , "é\"" : "\ud800" } `, `b=1`, `{"a":1e400,"é\"":"\ud800","b":1}`},
	{`not JSON`, `a=1`, `not JSON`},
	{`{"a":NaN}`, `a=1`, `{"a":NaN}`},
	{``, `a=1`, ``},
}

func TestEdit(t *testing.T) {
	for _, tt := range edits {
		e, err := parseEdit(tt.edit)
		if err != nil {
			t.Errorf("%s: %v", tt.edit, err)
			continue
		}
		if got := string(e.apply([]byte(tt.doc))); got != tt.want {
			t.Errorf("%s with %s is %s, want %s", tt.doc, tt.edit, got, tt.want)
		}
	}
}

// A document stays a document, and an edit of a member that is there does what
// it would do to a map.
func FuzzEdit(f *testing.F) {
	for _, tt := range edits {
		f.Add(tt.doc, tt.edit)
	}
	f.Fuzz(func(t *testing.T, doc, spec string) {
		e, err := parseEdit(spec)
		if err != nil {
			return
		}
		got := e.apply([]byte(doc))
		if !json.Valid([]byte(doc)) {
			if string(got) != doc {
				t.Fatalf("%q became %q", doc, got)
			}
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q with %q is %q", doc, spec, got)
		}
		var before, after, value any
		if json.Unmarshal([]byte(doc), &before) != nil || json.Unmarshal(got, &after) != nil {
			return // numbers that are too large
		}
		m, ok := before.(map[string]any)
		if !ok || len(e.path) > 1 || strings.ContainsRune(e.path[0], '\ufffd') || !json.Valid([]byte(strconv.Quote(e.path[0]))) {
			return
		}
		if delete(m, e.path[0]); e.value != nil {
			json.Unmarshal(e.value, &value)
			m[e.path[0]] = value
		}
		if !reflect.DeepEqual(m, after) {
			t.Fatalf("%q with %q is %q", doc, spec, got)
		}
	})
}
