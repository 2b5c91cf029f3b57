package ndjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var objects = []struct {
	in   string
	want []string // name=value
	err  string
}{
	{in: `{}`},
	{in: " \t{ \r\n} "},
	{in: `{"a":1}`, want: []string{"a=1"}},
	{in: ` { "a" : "b\n" , "c":[1, {"d":null}] ,"":{ } }`, want: []string{"a=\"b\\n\"", "c=[1, {\"d\":null}]", "={ }"}},
	{in: `{"val\u0075es":true,"A":false,"a":null}`, want: []string{"values=true", "A=false", "a=null"}},
	{in: `{"\ud83d\ude00\/":"\ud83d\ude00\u00e9\/\b\f\r\t"}`, want: []string{`😀/="\ud83d\ude00\u00e9\/\b\f\r\t"`}},
	{in: `{"n":[0,-0,10,1.5,-1.25e+10,1E5,0e-0,123456789012345678901234567890]}`, want: []string{"n=[0,-0,10,1.5,-1.25e+10,1E5,0e-0,123456789012345678901234567890]"}},
	{in: `{"o":{"a":1,"a":2}}`, want: []string{`o={"a":1,"a":2}`}},
	{in: `{"a":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, want: []string{"a=" + strings.Repeat("[", 63) + strings.Repeat("]", 63)}},
	{in: "{\"a\":\"\u2028\x7f\"}", want: []string{"a=\"\u2028\x7f\""}},

	{in: ``, err: "column 1: not a JSON object"},
	{in: `  `, err: "column 3: not a JSON object"},
	{in: `null`, err: "column 1: not a JSON object"},
	{in: `[{}]`, err: "column 1: not a JSON object"},
	{in: "\xef\xbb\xbf{}", err: "column 1: not a JSON object"},
	{in: `{`, err: "column 2: the line ends where a member name was expected"},
	{in: `{"a"`, err: "column 5: the line ends where ':' was expected"},
	{in: `{"a":`, err: "column 6: the line ends where a value was expected"},
	{in: `{"a":1`, err: "column 7: the line ends where ',' or '}' was expected"},
	{in: `{"a":1,`, err: "column 8: the line ends where a member name was expected"},
	{in: `{"a":1,}`, err: "column 8: '}' where a member name was expected"},
	{in: `{,"a":1}`, err: "column 2: ',' where a member name was expected"},
	{in: `{a:1}`, err: "column 2: 'a' where a member name was expected"},
	{in: `{"a" 1}`, err: "column 6: '1' where ':' was expected"},
	{in: `{"a":1 "b":2}`, err: `column 8: '"' where ',' or '}' was expected`},
	{in: `{"a":1}}`, err: "column 8: text behind the object"},
	{in: `{"a":1} {"a":1}`, err: "column 9: text behind the object"},
	{in: `{} x`, err: "column 4: text behind the object"},
	{in: `{"a":é}`, err: "column 6: 'é' where a value was expected"},
	{in: `{"a":tru}`, err: "column 6: 't' where a value was expected"},
	{in: `{"a":truer}`, err: "column 10: 'r' where ',' or '}' was expected"},
	{in: `{"a":NaN}`, err: "column 6: 'N' where a value was expected"},
	{in: `{"a":-Infinity}`, err: "column 7: 'I' where a digit was expected"},
	{in: `{"a":01}`, err: "column 6: a number with a leading zero"},
	{in: `{"a":-01}`, err: "column 7: a number with a leading zero"},
	{in: `{"a":1.}`, err: "column 8: '}' where a digit was expected"},
	{in: `{"a":.5}`, err: "column 6: '.' where a value was expected"},
	{in: `{"a":+1}`, err: "column 6: '+' where a value was expected"},
	{in: `{"a":1e}`, err: "column 8: '}' where a digit was expected"},
	{in: `{"a":1e+`, err: "column 9: the line ends where a digit was expected"},
	{in: `{"a":0x10}`, err: "column 7: 'x' where ',' or '}' was expected"},
	{in: `{"a":[1,]}`, err: "column 9: ']' where a value was expected"},
	{in: `{"a":[1}`, err: "column 8: '}' where ',' or ']' was expected"},
	{in: `{"a":{"b"}}`, err: "column 10: '}' where ':' was expected"},
	{in: `{"a":{"b":1]}`, err: "column 12: ']' where ',' or '}' was expected"},
	{in: `{"a":"b`, err: "column 6: a string that does not end"},
	{in: `{"a":"b\"}`, err: "column 6: a string that does not end"},
	{in: `{"a":"b\`, err: "column 8: unknown escape"},
	{in: `{"a":"\x"}`, err: "column 7: unknown escape"},
	{in: `{"a":"\u12g4"}`, err: `column 7: \u without four hex digits`},
	{in: `{"a":"\u123`, err: `column 7: \u without four hex digits`},
	{in: `{"a":"\U1234"}`, err: "column 7: unknown escape"},
	{in: `{"a":"\ud83d"}`, err: "column 7: half a surrogate pair"},
	{in: `{"a":"\ude00"}`, err: "column 7: half a surrogate pair"},
	{in: `{"a":"\ud83d\ud83d\ude00"}`, err: "column 7: half a surrogate pair"},
	{in: `{"a":"\ud83d\n\ude00"}`, err: "column 7: half a surrogate pair"},
	{in: `{"a":"\ud83d\u0041"}`, err: "column 7: half a surrogate pair"},
	{in: `{"a":{"\ud83d":1}}`, err: "column 8: half a surrogate pair"},
	{in: "{\"a\":\"b\tc\"}", err: "column 8: control character 0x09 in a string"},
	{in: "{\"a\":\"b\nc\"}", err: "column 8: control character 0x0a in a string"},
	{in: "{\"a\x00\":1}", err: "column 4: control character 0x00 in a string"},
	{in: "{\"a\":\"12345678\x1f12345678\"}", err: "column 15: control character 0x1f in a string"},
	{in: "{\"a\":\"\xff\"}", err: "column 7: invalid UTF-8, byte 0xff: convert the text to UTF-8"},
	{in: "{\"a\":\"é\xc3\"}", err: "column 9: invalid UTF-8, byte 0xc3: convert the text to UTF-8"},
	{in: "{\"a\":\"\xed\xa0\x80\"}", err: "column 7: invalid UTF-8, byte 0xed: convert the text to UTF-8"},
	{in: "{\"a\":1}\x80", err: "column 8: invalid UTF-8, byte 0x80: convert the text to UTF-8"},
	{in: `{"a":1,"b":2,"a":3}`, err: `column 14: member "a" twice in one object`},
	{in: `{"a":1,"\u0061":3}`, err: `column 8: member "a" twice in one object`},
	{in: `{` + numbered(0, 20) + `,"m3":0}`, err: `column 152: member "m3" twice in one object`},
	{in: `{` + numbered(0, 20) + `,"m19":0}`, err: `column 152: member "m19" twice in one object`},
	{in: `{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, err: "column 69: nested deeper than 64"},
	{in: `{"a":` + strings.Repeat(`{"b":`, 20000), err: "column 321: nested deeper than 64"},
}

// numbered is `"m0":0,"m1":0,…`.
func numbered(from, to int) string {
	var members []string
	for i := from; i < to; i++ {
		members = append(members, fmt.Sprintf(`"m%d":0`, i))
	}
	return strings.Join(members, ",")
}

func TestObject(t *testing.T) {
	for _, o := range objects {
		var got []string
		err := Object([]byte(o.in), func(name, value []byte) error {
			got = append(got, string(name)+"="+string(value))
			return nil
		})
		if o.err != "" {
			if err == nil || err.Error() != o.err {
				t.Errorf("%.100q: error %v, want %s", o.in, err, o.err)
			}
		} else if err != nil || !slices.Equal(got, o.want) {
			t.Errorf("%.100q: %q, %v, want %q", o.in, got, err, o.want)
		}
	}
}

func TestObjectStops(t *testing.T) {
	stop := errors.New("stop")
	calls := 0
	err := Object([]byte(`{"a":1,"b":2}`), func(_, _ []byte) error { calls++; return stop })
	if err != stop || calls != 1 {
		t.Errorf("error %v after %d calls", err, calls)
	}
}

func TestObjectManyMembers(t *testing.T) {
	n := 0
	if err := Object([]byte(`{`+numbered(0, 1000)+`}`), func(_, _ []byte) error { n++; return nil }); err != nil || n != 1000 {
		t.Errorf("%d members, %v", n, err)
	}
}

func TestObjectDoesNotAllocate(t *testing.T) {
	line := []byte(`{"id":"chunk_123","text":"Текст чанка","title":"a \"title\"","n":[1,2,3]}`)
	sum := 0
	if n := testing.AllocsPerRun(100, func() {
		if err := Object(line, func(name, value []byte) error { sum += len(name) + len(value); return nil }); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var stringTokens = []struct{ tok, want, err string }{
	{`""`, "", ""},
	{`"a"`, "a", ""},
	{`"Текст 😀 \u2028"`, "Текст 😀 \u2028", ""},
	{`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t", ""},
	{`"x\u0000\u00e9\uFFfd\ud83d\ude00\uDBFF\uDFFFy"`, "x\x00é\ufffd😀\U0010ffffy", ""},
	{``, "", "want a string, have "},
	{`null`, "", "want a string, have null"},
	{`123`, "", "want a string, have 123"},
	{`"`, "", "column 1: a string that does not end"},
	{`"a`, "", "column 1: a string that does not end"},
	{`"a" `, "", "column 4: text behind the string"},
	{`"a"b"`, "", "column 4: text behind the string"},
	{`"\ud800"`, "", "column 2: half a surrogate pair"},
	{`"\udc00\ud800"`, "", "column 2: half a surrogate pair"},
	{"\"\xc0\x80\"", "", "column 2: invalid UTF-8, byte 0xc0: convert the text to UTF-8"},
	{"\"\n\"", "", "column 2: control character 0x0a in a string"},
}

func TestString(t *testing.T) {
	for _, s := range stringTokens {
		got, err := String([]byte(s.tok))
		if s.err != "" {
			if err == nil || err.Error() != s.err {
				t.Errorf("%q: error %v, want %s", s.tok, err, s.err)
			}
		} else if err != nil || got != s.want {
			t.Errorf("%q: %q, %v, want %q", s.tok, got, err, s.want)
		}
	}
}

// Every byte below 0x80 at every place of a word: what must be escaped is
// found there, and nothing else is.
func TestStringPlaces(t *testing.T) {
	for c := range 0x80 {
		for at := range 20 {
			for _, fill := range []string{"a", "\x7f", "!", "#", "]", "[", "é", "😀"} {
				text := strings.Repeat(fill, at) + string(rune(c)) + strings.Repeat(fill, 20-at)
				raw := `"` + text + `"`
				_, err := String([]byte(raw))
				if bad := c < ' ' || c == '"' || c == '\\'; bad != (err != nil) {
					t.Fatalf("%q: error %v", raw, err)
				}
				if got, err := String(AppendString(nil, text)); err != nil || got != text {
					t.Fatalf("%q came back as %q, %v", text, got, err)
				}
			}
		}
	}
}

func TestAppendString(t *testing.T) {
	got := AppendString([]byte("x"), "a\"b\\c\n\r\t\b\x00\x1f\x7f</é\u2028😀")
	if want := `x"a\"b\\c\n\r\t\u0008\u0000\u001f` + "\x7f</é\u2028😀" + `"`; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The state machine agrees with the standard library on all sequences of
// four bytes from the edges of its ranges, wherever in a block they stand.
func TestUTF8(t *testing.T) {
	edges := []byte{0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf3, 0xf4, 0xf5}
	type place struct {
		text []byte
		at   int
	}
	var places []place
	for _, fill := range []string{"a", "é"} {
		for _, at := range []int{62, 90} {
			places = append(places, place{[]byte(strings.Repeat(fill, 94/len(fill))), at})
		}
	}
	for i := range len(edges) * len(edges) * len(edges) * len(edges) {
		n := len(edges)
		seq := []byte{edges[i%n], edges[i/n%n], edges[i/n/n%n], edges[i/n/n/n]}
		for _, p := range places {
			copy(p.text[p.at:], seq)
			if err := checkUTF8(p.text); (err == nil) != utf8.Valid(p.text) {
				t.Fatalf("% x at %d: error %v", seq, p.at, err)
			}
		}
	}
}

func TestMarshal(t *testing.T) {
	type pair struct {
		A string `json:"a"`
		B *int   `json:"b,omitempty"`
	}
	b, err := Marshal(pair{A: "<é&\u2028\">"})
	if err != nil {
		t.Fatal(err)
	}
	var back pair
	if err := Unmarshal(b, &back); err != nil || back.A != "<é&\u2028\">" || bytes.Contains(b, []byte(`\u003c`)) {
		t.Errorf("%s: %v %v", b, back, err)
	}
	for _, bad := range []string{`{"a":"x","a":"y"}`, `{"a":"x"}x`, "{\"a\":\"\xff\"}", `[]`, `{"a":1}`} {
		if err := Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// strict says what Object must accept, in terms of encoding/json.
func strict(in []byte) bool {
	if !json.Valid(in) || !utf8.Valid(in) {
		return false
	}
	plain := bytes.ReplaceAll(in, []byte(`\\`), []byte(`..`))
	if lone.Match(pair.ReplaceAll(plain, []byte(`..`))) {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(in))
	dec.UseNumber()
	names := map[string]bool{}
	for depth, name := 0, false; ; {
		tok, err := dec.Token()
		if err != nil {
			return true
		}
		delim, _ := tok.(json.Delim)
		if depth == 0 && delim != '{' {
			return false
		}
		if depth == 1 && name && delim == 0 {
			if names[tok.(string)] {
				return false
			}
			names[tok.(string)] = true
			name = false
			continue
		}
		switch delim {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth > 64 {
			return false
		}
		name = depth == 1
	}
}

var (
	pair = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)
	lone = regexp.MustCompile(`\\u[dD][89a-fA-F]`)
)

func FuzzObject(f *testing.F) {
	for _, o := range objects {
		f.Add([]byte(o.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got := map[string]string{}
		err := Object(in, func(name, value []byte) error {
			got[string(name)] = string(value)
			return nil
		})
		if strict(in) != (err == nil) {
			t.Fatalf("%q: error %v", in, err)
		}
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(in, &want); err != nil || len(want) != len(got) {
			t.Fatalf("%q: %v, %d members, want %d", in, err, len(got), len(want))
		}
		for name, value := range want {
			if got[name] != string(value) {
				t.Fatalf("%q: member %q is %q, want %q", in, name, got[name], value)
			}
		}
	})
}

func FuzzString(f *testing.F) {
	for _, s := range stringTokens {
		f.Add([]byte(s.tok))
	}
	f.Fuzz(func(t *testing.T, tok []byte) {
		got, err := String(tok)
		var want string
		plain := bytes.ReplaceAll(tok, []byte(`\\`), []byte(`..`))
		ok := json.Unmarshal(tok, &want) == nil && utf8.Valid(tok) && bytes.HasPrefix(tok, []byte(`"`)) && bytes.HasSuffix(tok, []byte(`"`)) &&
			!lone.Match(pair.ReplaceAll(plain, []byte(`..`)))
		if ok != (err == nil) || ok && got != want {
			t.Fatalf("%q: %q, %v, want %q, %v", tok, got, err, want, ok)
		}
		if !ok {
			return
		}
		encoded := AppendString(nil, got)
		if err := json.Unmarshal(encoded, &want); err != nil || want != got {
			t.Fatalf("%q was encoded as %q", got, encoded)
		}
	})
}
