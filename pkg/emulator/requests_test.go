package emulator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

var requestLines = []struct {
	line string
	want string // "key|text|dim|task|title|model", or the error
}{
	{`{"key":"k","request":{"content":{"parts":[{"text":"a"}]}}}`, `k|a|0|||`},
	{`{"request":{"model":"models/m","content":{"parts":[{"text":"a"}],"role":"user"},"taskType":"CLUSTERING","title":"T","outputDimensionality":768},"key":"k"}`, `k|a|768|CLUSTERING|T|models/m`},
	{`{"key":"k","request":{"content":{"parts":[{"text":"a"},{"text":"b"}]},"task_type":"CLUSTERING","output_dimensionality":"16"}}`, "k|a\nb|16|CLUSTERING||"},
	{`{"key":"k","request":{"content":{"parts":[{"text":"a"}]},"outputDimensionality":3,"embedContentConfig":{"taskType":"CLUSTERING","title":"T","outputDimensionality":4,"autoTruncate":true}}}`, `k|a|4|CLUSTERING|T|`},
	{`{"key":"k","request":{"content":{"parts":[{"text":"a"}]},"embed_content_config":{"task_type":"CLUSTERING","output_dimensionality":4e0,"auto_truncate":null}}}`, `k|a|4|CLUSTERING||`},
	{`{"key":null,"request":{"content":null,"title":null,"taskType":null,"outputDimensionality":null,"model":null}}`, `||0|||`},
	{`{"key":"k","config":{"anything":[1,{"a":"\u00e9"}]},"x":-1.5e+3,"y":true,"request":{}}`, `k||0|||`},
	{` { "key" : "\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00" , "request" : { "content" : { "parts" : [ { "text" : "\u2028" } ] } } } `, "\"\\/\b\f\n\r\té😀|\u2028|0|||"},

	{`{"key":"k"}`, `near column 12: no request`},
	{``, `near column 1: unexpected end; expected '{'`},
	{`[]`, `near column 1: unexpected character: '['; expected '{'`},
	{`{"key":"k","request":{}}x`, `near column 25: unexpected character: 'x'; expected end of line`},
	{`{"key":1,"request":{}}`, `near column 8: unexpected character: '1'; expected '"'`},
	{`{"key":"k","request":{"content":{"parts":[{"text":1}]}}}`, `near column 51: unexpected character: '1'; expected '"'`},
	{`{"key":"k","request":{"content":[]}}`, `near column 33: unexpected character: '['; expected '{'`},
	{`{"key":"k","request":{"content":{"parts":[{"inlineData":{}}]}}}`, `near column 44: no such field: 'inlineData'`},
	{`{"key":"k","request":{"content":{"part":1}}}`, `near column 34: no such field: 'part'`},
	{`{"key":"k","request":{"embedContentConfig":{"dim":1}}}`, `near column 45: no such field: 'dim'`},
	{`{"key":"k","request":{"taskType":"SEARCH"}}`, `near column 34: unknown value for enum TaskType: 'SEARCH'`},
	{`{"key":"k","request":{"outputDimensionality":0}}`, `near column 46: output dimensionality 0 is not in 1 to 3072`},
	{`{"key":"k","request":{"outputDimensionality":3073}}`, `is not in 1 to 3072`},
	{`{"key":"k","request":{"outputDimensionality":1.5}}`, `not an integer: 1.5`},
	{`{"key":"k","request":{"outputDimensionality":"x"}}`, `not an integer: x`},
	{`{"x":01,"request":{}}`, `expected ',' or '}'`},
	{`{"key":"k","request":{"title":"a` + "\n" + `"}}`, `near column 33: control character`},
	{`{"key":"\x","request":{}}`, `near column 10: invalid escape`},
	{`{"key":"\ud800","request":{}}`, `invalid escape`},
	{`{"key":"\ud800\u0041","request":{}}`, `invalid escape`},
	{`{"key":"\u00g0","request":{}}`, `invalid escape`},
	{`{"key":"k`, `unexpected end; expected '"'`},
	{`{"key":"k\`, `unexpected end; expected '"'`},
	{`{"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `,"request":{}}`, `nested too deeply`},
	{`{"x":tru,"request":{}}`, `expected a boolean`},
	{`{"x":1.,"request":{}}`, `expected a digit`},
	{`{"x":1e,"request":{}}`, `expected a digit`},
	{`{"x":-,"request":{}}`, `expected a value`},
	{`{"x" 1,"request":{}}`, `expected ':'`},
	{`{x:1}`, `expected '"'`},
	{`{"x":1,}`, `expected '"'`},
	{`{"x":[1,]}`, `expected a value`},
}

func TestRequestLines(t *testing.T) {
	var p parser
	for _, tt := range requestLines {
		it, err := p.line([]byte(tt.line))
		got := fmt.Sprintf("%s|%s|%d|%s|%s|%s", it.key, it.text, it.dim, it.task, it.title, it.model)
		switch {
		case err != nil && !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s\nerror %v\nwant  %s", tt.line, err, tt.want)
		case err == nil && got != tt.want:
			t.Errorf("%s\ngives %q\nwant  %q", tt.line, got, tt.want)
		case err == nil:
			var plain struct{ Key json.RawMessage }
			json.Unmarshal([]byte(tt.line), &plain)
			if string(it.rawKey) != string(plain.Key) && string(plain.Key) != "null" {
				t.Errorf("%s\nraw key %s", tt.line, it.rawKey)
			}
		}
	}
}

// A line that the parser accepts is JSON, and encoding/json reads the same key
// and text from it.
func FuzzRequestLine(f *testing.F) {
	for _, tt := range requestLines {
		f.Add([]byte(tt.line))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p parser
		it, err := p.line(b)
		if err != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("accepted %q", b)
		}
		var twice map[string]json.RawMessage
		var v struct {
			Key     *string
			Request struct {
				Content struct{ Parts []struct{ Text string } }
			}
		}
		json.Unmarshal(b, &twice)
		// encoding/json ignores case, and merges two fields with the same name.
		// Compare only lines where neither matters.
		if strings.Count(strings.ToLower(string(b)), `"key"`) > 1 || strings.Count(strings.ToLower(string(b)), "request") > 1 ||
			strings.Count(strings.ToLower(string(b)), "content") > 1 || strings.Count(strings.ToLower(string(b)), "parts") > 1 ||
			strings.Count(strings.ToLower(string(b)), "text") > 1 || strings.Contains(string(b), `\u`) || twice["key"] == nil {
			return
		}
		if err := json.Unmarshal(b, &v); err != nil || v.Key == nil {
			return
		}
		if *v.Key != strings.ToValidUTF8(string(it.key), "\ufffd") && *v.Key == strings.ToValidUTF8(*v.Key, "") && !strings.Contains(*v.Key, "\ufffd") {
			t.Fatalf("key %q, want %q in %q", it.key, *v.Key, b)
		}
		if parts := v.Request.Content.Parts; len(parts) == 1 && parts[0].Text != string(it.text) && !strings.Contains(parts[0].Text, "\ufffd") {
			t.Fatalf("text %q, want %q in %q", it.text, parts[0].Text, b)
		}
	})
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 1000)
	lines := lineReader{r: bufio.NewReaderSize(strings.NewReader("a\r\n\n \t\nb\n"+long+"\nlast"), 16)}
	var got []string
	for {
		b, err := lines.read()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d@%d:%s", lines.number, lines.offset, b))
	}
	if want := fmt.Sprint([]string{"1@0:a", "4@7:b", "5@9:" + long, "6@1010:last"}); fmt.Sprint(got) != want {
		t.Errorf("%v\nwant %v", got, want)
	}
	lines = lineReader{r: bufio.NewReader(io.LimitReader(zeros{}, maxLine+2))}
	if _, err := lines.read(); err == nil || err == io.EOF {
		t.Errorf("a line too long: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func BenchmarkCheckInput(b *testing.B) {
	l := line("key", strings.Repeat("A passage of ordinary text, \"quoted\" here and there. ", 30), 768) + "\n"
	input := strings.Repeat(l, 1000)
	b.SetBytes(int64(len(input)))
	for b.Loop() {
		if err := checkInput(&job{Model: model001}, strings.NewReader(input), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
