package ndjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
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
	{in: `{`, err: "column 2: an object must be on one line, as jq -c prints it"},
	{in: `{"a"`, err: "column 5: the line ends where ':' was expected"},
	{in: `{"a":`, err: "column 6: the line ends where a value was expected"},
	{in: `{"a":1`, err: "column 7: the line ends where ',' or '}' was expected"},
	{in: `{"a":1,`, err: "column 8: the line ends where a member name was expected"},
	{in: `{"a":1,}`, err: "column 8: '}' where a member name was expected"},
	{in: `{,"a":1}`, err: "column 2: ',' where a member name was expected"},
	{in: `{a:1}`, err: "column 2: 'a' where a member name was expected"},
	{in: `{"a" 1}`, err: "column 6: '1' where ':' was expected"},
	{in: `{"a":1 "b":2}`, err: `column 8: '"' where ',' or '}' was expected`},
	{in: `{"a":1}}`, err: "column 8: text after the object"},
	{in: `{"a":1} {"a":1}`, err: "column 9: text after the object"},
	{in: `{} x`, err: "column 4: text after the object"},
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
	{in: "{\"a\":1\x80}", err: "column 7: invalid UTF-8, byte 0x80: convert the text to UTF-8"},
	{in: "{\"a\":1}\x80", err: "column 8: text after the object"},
	{in: "{\"a\":[\"b\",\"\xff\"]}", err: "column 12: invalid UTF-8, byte 0xff: convert the text to UTF-8"},
	{in: "{\"\xff\":1}", err: "column 3: invalid UTF-8, byte 0xff: convert the text to UTF-8"},
	{in: "{\"a\":\"12345678901234567890123456789012345678901234567890123456789012345678\xe3\x81\"}", err: "column 75: invalid UTF-8, byte 0xe3: convert the text to UTF-8"},
	{in: `{"a":1,"b":2,"a":3}`, err: `column 14: member "a" twice in one object`},
	{in: `{"a":1,"\u0061":3}`, err: `column 8: member "a" twice in one object`},
	{in: `{` + numbered(0, 20) + `,"m3":0}`, err: `column 152: member "m3" twice in one object`},
	{in: `{` + numbered(0, 20) + `,"m19":0}`, err: `column 152: member "m19" twice in one object`},
	{in: `{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, err: "column 69: nested deeper than 64"},
	{in: `{"a":` + strings.Repeat(`{"b":`, 20000), err: "column 321: nested deeper than 64"},
}

// numbered returns `"m0":0,"m1":0,…`.
func numbered(from, to int) string {
	var members []string
	for i := from; i < to; i++ {
		members = append(members, fmt.Sprintf(`"m%d":0`, i))
	}
	return strings.Join(members, ",")
}

// walk returns the members of line's object, as name=value.
func walk(line string) (members []string, err error) {
	var w Walker
	for w.Begin([]byte(line)); w.Next(); {
		members = append(members, string(w.Name())+"="+string(w.Raw()))
	}
	return members, w.Err()
}

func TestWalker(t *testing.T) {
	for _, o := range objects {
		got, err := walk(o.in)
		if o.err != "" {
			if err == nil || err.Error() != o.err {
				t.Errorf("%.100q: error %v, want %s", o.in, err, o.err)
			}
		} else if err != nil || !slices.Equal(got, o.want) {
			t.Errorf("%.100q: %q, %v, want %q", o.in, got, err, o.want)
		}
		// Skipped values are checked too.
		var w Walker
		for w.Begin([]byte(o.in)); w.Next(); {
		}
		if fmt.Sprint(w.Err()) != fmt.Sprint(err) {
			t.Errorf("%.100q: skipped: %v, read: %v", o.in, w.Err(), err)
		}
	}
}

func TestWalkerEnters(t *testing.T) {
	for _, o := range []struct{ in, want, err string }{
		{in: `{"a":{},"b":1}`, want: "a{ } b=1 "},
		{in: `{"a":{"b":{"a":1,"b":2},"c":3},"b":[1] }`, want: "a{ b{ a=1 b=2 } c=3 } b=[1] "},
		{in: `{"a":{"a":1,"a":2}}`, err: `column 13: member "a" twice in one object`},
		{in: `{"a":{"b":{}},"c":{"b":{}},"a":0}`, err: `column 28: member "a" twice in one object`},
		{in: `{` + numbered(0, 20) + `,"a":{` + numbered(0, 20) + `,"m18":1}}`, err: `column 307: member "m18" twice in one object`},
		{in: `{"a":{` + numbered(0, 20) + `},"b":{` + numbered(0, 20) + `},"m19":1,"m19":2}`, err: `column 322: member "m19" twice in one object`},
		{in: `{"a":{"b":1}`, err: "column 13: the line ends where ',' or '}' was expected"},
		{in: `{"a":{"b":1}}}`, err: "column 14: text after the object"},
		{in: `{"a":{"b":1,}}`, err: "column 13: '}' where a member name was expected"},
		{in: `{"a":{"b":x},"c":1}`, err: "column 11: 'x' where a value was expected"},
		{in: strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64), want: strings.Repeat("a{ ", 63) + "a=1 " + strings.Repeat("} ", 63)},
		{in: strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), err: "column 321: nested deeper than 64"},
	} {
		var got strings.Builder
		var w Walker
		var object func()
		object = func() {
			for w.Next() {
				got.Write(w.Name())
				if w.Enter() {
					got.WriteString("{ ")
					object()
					got.WriteString("} ")
				} else if w.Err() == nil {
					fmt.Fprintf(&got, "=%s ", w.Raw())
				}
			}
		}
		w.Begin([]byte(o.in))
		object()
		if err := w.Err(); o.err != "" {
			if err == nil || err.Error() != o.err {
				t.Errorf("%.100q: error %v, want %s", o.in, err, o.err)
			}
		} else if err != nil || got.String() != o.want {
			t.Errorf("%.100q: %s, %v, want %s", o.in, got.String(), err, o.want)
		}
	}
}

func TestWalkerTextAndCount(t *testing.T) {
	for _, c := range []struct {
		value, text string
		isText      bool
		count       int64
		isCount     bool
	}{
		{value: `""`, isText: true},
		{value: `"a\"b"`, text: `a"b`, isText: true},
		{value: "0", isCount: true},
		{value: "120", count: 120, isCount: true},
		{value: "999999999999999999", count: 999999999999999999, isCount: true},
		{value: "1000000000000000000"},
		{value: "-1"}, {value: "1.5"}, {value: "1e2"}, {value: "1E2"}, {value: "null"}, {value: "[1]"}, {value: "{}"},
	} {
		var w Walker
		w.Begin([]byte(`{"a":` + c.value + ` , "b":7}`))
		w.Next()
		if text, ok := w.Text(); ok != c.isText || string(text) != c.text {
			t.Errorf("%s: text %q, %v", c.value, text, ok)
		}
		w.Begin([]byte(`{"a":` + c.value + `,"b":7}`))
		w.Next()
		if n, ok := w.Count(); ok != c.isCount || n != c.count {
			t.Errorf("%s: count %d, %v", c.value, n, ok)
		}
		if !w.Next() || string(w.Raw()) != "7" || w.Next() || w.Err() != nil {
			t.Errorf("%s: then %s, %v", c.value, w.Name(), w.Err())
		}
	}
	for _, bad := range []string{"01", "1.", "1x", `"a`, `"\x"`, "\"\xff\"", "00"} {
		var w Walker
		for w.Begin([]byte(`{"a":` + bad + `}`)); w.Next(); {
			w.Count()
			if w.Kind() == '"' {
				w.Text()
			}
		}
		if w.Err() == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// Another parser reads a value, and the Walker continues after it.
func TestWalkerTook(t *testing.T) {
	var w Walker
	w.Begin([]byte(`{"a" : [1,2] , "b":3}`))
	if !w.Next() || w.Kind() != '[' || string(w.Rest()) != `[1,2] , "b":3}` {
		t.Fatalf("%q", w.Rest())
	}
	w.Took(5)
	if !w.Next() || string(w.Name()) != "b" || string(w.Raw()) != "3" || w.Next() || w.Err() != nil {
		t.Errorf("%s, %v", w.Name(), w.Err())
	}
}

func TestWalkerManyMembers(t *testing.T) {
	members, err := walk(`{` + numbered(0, 1000) + `}`)
	if err != nil || len(members) != 1000 {
		t.Errorf("%d members, %v", len(members), err)
	}
}

func TestWalkerDoesNotAllocate(t *testing.T) {
	line := []byte(`{"id":"chunk_123","text":"Текст чанка","title":"a \"title\"","n":[1,2,3],"o":{"p":1}}`)
	sum := 0
	if n := testing.AllocsPerRun(100, func() {
		var w Walker
		for w.Begin(line); w.Next(); {
			if w.Enter() {
				for w.Next() {
				}
				continue
			}
			sum += len(w.Name()) + len(w.Raw())
		}
		if w.Err() != nil {
			t.Fatal(w.Err())
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// text reads a JSON string with a Walker.
func text(tok string) (string, error) {
	var w Walker
	s := ""
	for w.Begin([]byte(`{"":` + tok + `}`)); w.Next(); {
		if w.Kind() != '"' {
			return "", errors.New("not a string")
		}
		if raw := w.Raw(); raw != nil {
			s = string(Unescape(raw[1 : len(raw)-1]))
		}
	}
	return s, w.Err()
}

var stringTokens = []struct{ tok, want string }{
	{`""`, ""},
	{`"a"`, "a"},
	{`"Текст 😀 \u2028"`, "Текст 😀 \u2028"},
	{`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t"},
	{`"x\u0000\u00e9\uFFfd\ud83d\ude00\uDBFF\uDFFFy"`, "x\x00é\ufffd😀\U0010ffffy"},
	{`"\\u0041\\"`, `\u0041\`},
}

func TestUnescape(t *testing.T) {
	for _, s := range stringTokens {
		if got, err := text(s.tok); err != nil || got != s.want {
			t.Errorf("%q: %q, %v, want %q", s.tok, got, err, s.want)
		}
	}
}

// Every byte below 0x80 is tried at every place of a word: exactly the bytes
// that must be escaped are found.
func TestStringPlaces(t *testing.T) {
	for c := range 0x80 {
		for at := range 20 {
			for _, fill := range []string{"a", "\x7f", "!", "#", "]", "[", "é", "😀"} {
				plain := strings.Repeat(fill, at) + string(rune(c)) + strings.Repeat(fill, 20-at)
				raw := `"` + plain + `"`
				_, err := text(raw)
				if bad := c < ' ' || c == '"' || c == '\\'; bad != (err != nil) {
					t.Fatalf("%q: error %v", raw, err)
				}
				if got, err := text(string(AppendString(nil, plain))); err != nil || got != plain {
					t.Fatalf("%q came back as %q, %v", plain, got, err)
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

// The state machine agrees with the standard library on all sequences of four
// bytes from the edges of its ranges, at every place in a block.
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
			if at := badUTF8(p.text); (at < 0) != utf8.Valid(p.text) || at >= 0 && !utf8.Valid(p.text[:at]) {
				t.Fatalf("% x at %d: bad at %d", seq, p.at, at)
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

// A reference is one object as encoding/json reads it.
type reference struct {
	names  []string
	values []json.RawMessage
}

// read reads an object token by token, so that no name is lost.
func read(raw []byte) (r reference, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return r, fmt.Errorf("not an object: %v", err)
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return r, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return r, err
		}
		r.names, r.values = append(r.names, tok.(string)), append(r.values, value)
	}
	return r, nil
}

func valueOf(r reference, i int) []byte {
	if i >= len(r.values) {
		return nil
	}
	return r.values[i]
}

// depth returns the nesting depth of valid JSON.
func depth(raw []byte) (deepest int) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	for at := 0; ; {
		tok, err := dec.Token()
		if err != nil {
			return deepest
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			at++
			deepest = max(deepest, at)
		case json.Delim('}'), json.Delim(']'):
			at--
		}
	}
}

var (
	pair = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)
	lone = regexp.MustCompile(`\\u[dD][89a-fA-F]`)
)

// FuzzWalker compares the Walker with encoding/json: it accepts the same lines,
// and finds the same members in the line's object and in objects that are
// entered. The Walker refuses some lines that encoding/json accepts:
//
//   - values that are not objects
//   - invalid UTF-8, and surrogates without a partner: both become U+FFFD
//   - a name twice in an object that is read: the last value counts
//   - nesting deeper than 64
func FuzzWalker(f *testing.F) {
	for _, o := range objects {
		f.Add([]byte(o.in), byte(0))
	}
	for salt := range byte(5) {
		f.Add([]byte(`{"a":"x\u0041","b":"é","c":12,"d":0,"e":-1,"f":1.5,"g":1e3,"h":123456789012345678,"i":1234567890123456789,"j":{"a":"b"},"k":null}`), salt)
	}
	f.Add([]byte(`{"a":{"b":{"c":[{"c":1,"c":2}],"d":{}},"a":1},"":{"\u0061":{}}}`), byte(1))
	f.Fuzz(func(t *testing.T, in []byte, salt byte) {
		// What happens to a member is decided by its name.
		const raw, enter, asText, asCount = 1, 2, 3, 4 // 0: skipped
		what := func(name string) byte {
			if name == "" {
				return salt % 5
			}
			return (name[0] + byte(len(name)) + salt) % 5
		}
		var check func(raw []byte) error // returns an error if raw has one of the faults above
		check = func(in []byte) error {
			r, err := read(in)
			if err != nil {
				return err
			}
			for i, name := range r.names {
				if slices.Contains(r.names[:i], name) {
					return fmt.Errorf("%q twice", name)
				}
				if what(name) == enter && r.values[i][0] == '{' {
					if err := check(r.values[i]); err != nil {
						return err
					}
				}
			}
			return nil
		}
		plain := bytes.ReplaceAll(in, []byte(`\\`), []byte(`..`))
		var want error
		switch {
		case !json.Valid(in) || !utf8.Valid(in) || lone.Match(pair.ReplaceAll(plain, []byte(`..`))) || depth(in) > 64:
			want = errors.New("refused")
		default:
			want = check(in)
		}
		var w Walker
		var object func(in []byte)
		object = func(in []byte) {
			r, _ := read(in)
			for i := 0; w.Next(); i++ {
				name := string(w.Name())
				if want == nil && (i >= len(r.names) || name != r.names[i]) {
					t.Fatalf("%q: member %d is %q, want %q", in, i, name, r.names)
				}
				switch what(name) {
				case raw:
					if got := w.Raw(); want == nil && string(got) != string(r.values[i]) {
						t.Fatalf("%q: member %q is %q, want %q", in, name, got, r.values[i])
					}
				case asText:
					got, ok := w.Text()
					var text string
					if want == nil && (ok != (r.values[i][0] == '"') || ok && (json.Unmarshal(r.values[i], &text) != nil || text != string(got))) {
						t.Fatalf("%q: member %q is %q, %v, want %q", in, name, got, ok, r.values[i])
					}
				case asCount:
					got, ok := w.Count()
					n, err := strconv.ParseUint(string(append([]byte("0"), valueOf(r, i)...)), 10, 63)
					if fits := err == nil && n < 1e18 && len(valueOf(r, i)) <= 18; want == nil && (ok != fits || ok && uint64(got) != n) {
						t.Fatalf("%q: member %q is %d, %v, want %q", in, name, got, ok, r.values[i])
					}
				case enter:
					if w.Enter() {
						var inner []byte
						if want == nil {
							inner = r.values[i]
						}
						object(inner)
					}
				}
			}
		}
		w.Begin(in)
		object(in)
		if (want == nil) != (w.Err() == nil) {
			t.Fatalf("%q: error %v, want %v", in, w.Err(), want)
		}
	})
}

func FuzzString(f *testing.F) {
	for _, s := range stringTokens {
		f.Add([]byte(s.tok))
	}
	f.Fuzz(func(t *testing.T, tok []byte) {
		got, err := text(string(tok))
		var want string
		plain := bytes.ReplaceAll(tok, []byte(`\\`), []byte(`..`))
		ok := json.Unmarshal(tok, &want) == nil && utf8.Valid(tok) && bytes.HasPrefix(bytes.TrimLeft(tok, " \t\r\n"), []byte(`"`)) &&
			!lone.Match(pair.ReplaceAll(plain, []byte(`..`)))
		if ok && (err != nil || got != want) || !ok && err == nil && json.Valid(tok) {
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
