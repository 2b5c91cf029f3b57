package record

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	gojson "github.com/goccy/go-json"

	"gbatch/pkg/ndjson"
)

// usual is a line as Google writes it, with the values 0.5 and -0.25.
const usual = `{"response":{"tokenCount":"1","embedding":{"values":[0.5,-0.25]}},"key":"a"}`

// nest returns n nested arrays.
func nest(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

var responses = []struct {
	line string
	want Response // if err is empty
	err  string
}{
	// Forms of a vector.
	{line: usual, want: Response{Key: "a", HasKey: true, Values: []float32{0.5, -0.25}, Tokens: 1}},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5]},"tokenCount":12}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: 12}},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5]},"usageMetadata":{"promptTokenCount":7,"promptTokensDetails":[{"modality":"TEXT","tokenCount":7}]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: 7}},
	{line: `{"key":"a","response":{"usageMetadata":{"promptTokenCount":"8"},"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: 8}},
	{line: `{"key":"a","response":{"usageMetadata":{"promptTokenCount":"8"},"tokenCount":"0","embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: 0}},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"a","response":{"embedding":{"values":[]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{}, Tokens: -1}},
	{line: " {\t\"key\" : \"a\" ,\r\n\"response\" : { \"embedding\" : { \"values\" : [ 0.5 , 1 ] } , \"tokenCount\" : \"3\" } } \r\n", want: Response{Key: "a", HasKey: true, Values: []float32{0.5, 1}, Tokens: 3}},
	{line: usual + "\r", want: Response{Key: "a", HasKey: true, Values: []float32{0.5, -0.25}, Tokens: 1}},
	// Vertex repeats the request.
	{line: `{"key":"id_1","status":"","request":{"content":{"parts":[{"text":"he said \"hi\" \u003cb\u003e\n\\ ещё 東京"}]},"list":[],"map":{ },"n":[1,-2.5e+3,0,0.1E-2,null,true,false]},"response":{"tokenCount":"2","embedding":{"values":[0.5]}}}`, want: Response{Key: "id_1", HasKey: true, Values: []float32{0.5}, Tokens: 2}},
	{line: `{"request":{"text":"\ud83d\ude00"},"key":"a","response":{"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	// Members in the wrong places are ignored.
	{line: `{"values":[7],"embedding":{"values":[8]},"tokenCount":9,"key":"a","response":{"values":[10],"key":"b","embedding":{"key":"c","tokenCount":1,"embedding":{"values":[11]},"values":[0.5]}},"more":{"key":"d","response":{"embedding":{"values":[12]}}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"text":"\"response\":{\"embedding\":{\"values\":[9]}}","key":"a","response":{"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	// Names are compared after their escapes are resolved.
	{line: `{"\u006bey":"a","respons\u0065":{"embeddin\u0067":{"val\u0075es":[0.5]},"token\u0043ount":5}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: 5}},
	{line: `{"KEY":"b","key":"a","Response":{"embedding":{"values":[9]}},"response":{"Embedding":{"values":[8]},"embedding":{"Values":[7],"values":[0.5]},"tokencount":5}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"a","response":{"embedding":{"Values":[0.5]}}}`, err: `key "a": the answer has neither a vector nor an error`},
	// Keys.
	{line: `{"response":{"embedding":{"values":[0.5]}}}`, want: Response{Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"","response":{"embedding":{"values":[0.5]}}}`, want: Response{HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":null,"response":{"embedding":{"values":[0.5]}}}`, want: Response{Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"\"\\\/\b\f\n\r\t\u00e9\u2028","response":{"embedding":{"values":[0.5]}}}`, want: Response{Key: "\"\\/\b\f\n\r\té\u2028", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"\ud83d\ude00 😀","response":{"embedding":{"values":[0.5]}}}`, want: Response{Key: "😀 😀", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"ключ, чанк № 1","response":{"embedding":{"values":[0.5]}}}`, want: Response{Key: "ключ, чанк № 1", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":5,"response":{"embedding":{"values":[0.5]}}}`, err: "the key is 5; it must be a string"},
	{line: `{"key":["a"],"response":{"embedding":{"values":[0.5]}}}`, err: `the key is ["a"]; it must be a string`},
	// A wrong count does not cost the vector.
	{line: `{"key":"a","response":{"tokenCount":"many","embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"a","response":{"tokenCount":-1,"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"a","response":{"tokenCount":1.5,"usageMetadata":{"promptTokenCount":2},"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: 2}},
	{line: `{"key":"a","response":{"tokenCount":null,"usageMetadata":null,"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"a","response":{"tokenCount":"9223372036854775807","usageMetadata":4,"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: math.MaxInt64}},
	{line: `{"key":"a","response":{"tokenCount":99999999999999999999,"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	{line: `{"key":"a","response":{"tokenCount":"007","embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: 7}},
	{line: `{"key":"a","response":{"tokenCount":{"n":1},"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	// Errors.
	{line: `{"key":"a","error":{"code":13,"status":"INTERNAL","message":"An internal error has occurred\n"}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{13, "INTERNAL", "An internal error has occurred\n"}}},
	{line: `{"error":{"message":"m","code":3,"details":[{"@type":"x"}]},"key":"a"}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{3, "", "m"}}},
	{line: `{"key":"a","response":{"error":{"code":8,"message":"m"},"tokenCount":3}}`, want: Response{Key: "a", HasKey: true, Tokens: 3, Err: &Status{8, "", "m"}}},
	{line: `{"key":"a","response":{"error":{"code":8,"message":"inner"}},"error":{"code":9,"message":"outer"}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{9, "", "outer"}}},
	{line: `{"key":"a","error":{"code":9,"message":"outer"},"response":{"error":{"code":8,"message":"inner"}}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{9, "", "outer"}}},
	{line: `{"key":"a","error":null,"response":{"error":{"code":8,"message":"inner"}}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{8, "", "inner"}}},
	{line: `{"key":"a","error":"it \u201cbroke\u201d"}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{Message: "it “broke”"}}},
	{line: `{"key":"a","error":""}`, err: `key "a": the answer has neither a vector nor an error`},
	{line: `{"key":"a","error":{}}`, err: `key "a": the answer has neither a vector nor an error`},
	{line: `{"key":"a","error":{"code":5}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{Code: 5, Message: `{"code":5}`}}},
	{line: `{"key":"a","error":{"code":"13","message":"m"}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{Code: 13, Message: "m"}}},
	{line: `{"key":"a","error":[1, 2]}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{Message: `[1, 2]`}}},
	{line: `{"key":"a","error":true}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{Message: `true`}}},
	// If there is an error, a vector is ignored, good or bad.
	{line: `{"key":"a","error":{"code":13,"message":"m"},"response":{"embedding":{"values":[0.5]}}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{13, "", "m"}}},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5]}},"error":{"code":13,"message":"m"}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{13, "", "m"}}},
	{line: `{"key":"a","response":{"embedding":{"values":[null]},"error":"m"}}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{Message: "m"}}},
	{line: `{"key":"a","response":{"embedding":{"values":null}},"error":"m"}`, want: Response{Key: "a", HasKey: true, Tokens: -1, Err: &Status{Message: "m"}}},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5]}},"error":null}`, want: Response{Key: "a", HasKey: true, Values: []float32{0.5}, Tokens: -1}},
	// Valid lines without an answer.
	{line: `{}`, err: "the answer has neither a vector nor an error"},
	{line: `{"key":"a"}`, err: `key "a": the answer has neither a vector nor an error`},
	{line: `{"key":"a","response":{}}`, err: `key "a": the answer has neither a vector nor an error`},
	{line: `{"key":"a","response":null}`, err: `key "a": the answer has neither a vector nor an error`},
	{line: `{"key":"a","response":{"embedding":null}}`, err: `key "a": the answer has neither a vector nor an error`},
	{line: `{"key":"a","response":{"embedding":{"values":null}}}`, err: `key "a": the answer has neither a vector nor an error`},
	{line: `{"response":[],"key":"a"}`, err: `key "a": the answer has no vector: response is not an object`},
	{line: `{"key":"a","response":{"embedding":[0.5]}}`, err: `key "a": the answer has no vector: embedding is not an object`},
	{line: `{"key":"a","response":{"embedding":{"values":{}}}}`, err: `key "a": the answer has no vector: values: offset 0: not an array`},
	{line: `{"key":"a","response":{"embedding":{"values":"0.5"}}}`, err: `key "a": the answer has no vector: values: offset 0: not an array`},
	{line: `{"key":"a","response":{"embedding":{"values":[1,null,3]}}}`, err: `key "a": the answer has no vector: values: offset 3: "null" is not a number`},
	{line: `{"response":{"embedding":{"values":["NaN"]}},"key":"a"}`, err: `key "a": the answer has no vector: values: offset 1: "\"NaN\"" is not a number`},
	{line: `{"key":"a","response":{"embedding":{"values":["0.25"]}}}`, err: `key "a": the answer has no vector: values: offset 1: "\"0.25\"" is not a number`},
	{line: `{"key":"a","response":{"embedding":{"values":[1,[2]]}}}`, err: `key "a": the answer has no vector: values: offset 3: "[2" is not a number`},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5,1e39]}}}`, err: `key "a": the answer has no vector: values: offset 5: "1e39" does not fit a float32`},
	// Bad lines.
	{line: ``, err: "column 1: not a JSON object"},
	{line: `null`, err: "column 1: not a JSON object"},
	{line: `[` + usual + `]`, err: "column 1: not a JSON object"},
	{line: "\ufeff" + usual, err: "column 1: not a JSON object"},
	{line: usual + `x`, err: "column 77: text after the object"},
	{line: usual + usual, err: "column 77: text after the object"},
	{line: usual + `}`, err: "column 77: text after the object"},
	{line: `{"key":"a","response":{"embedding":{"values":[NaN]}}}`, err: "column 47: 'N' where a value was expected"},
	{line: `{"key":"a","response":{"embedding":{"values":[-Infinity]}}}`, err: "column 48: 'I' where a digit was expected"},
	{line: `{"key":"a","response":{"embedding":{"values":[00.5]}}}`, err: "column 47: a number with a leading zero"},
	{line: `{"key":"a","response":{"embedding":{"values":[1.]}}}`, err: "column 49: ']' where a digit was expected"},
	{line: `{"key":"a","response":{"embedding":{"values":[.5]}}}`, err: "column 47: '.' where a value was expected"},
	{line: `{"key":"a","response":{"embedding":{"values":[+1]}}}`, err: "column 47: '+' where a value was expected"},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5,]}}}`, err: "column 51: ']' where a value was expected"},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5],}}}`, err: "column 52: '}' where a member name was expected"},
	{line: `{"key":"a","key":"a","response":{"embedding":{"values":[0.5]}}}`, err: `column 12: member "key" twice in one object`},
	{line: `{"key":"a","k\u0065y":"b","response":{"embedding":{"values":[0.5]}}}`, err: `column 12: member "key" twice in one object`},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5],"values":[0.5]}}}`, err: `column 52: member "values" twice in one object`},
	{line: `{"key":"a","response":{"embedding":{"values":[0.5]}},"response":{"embedding":{"values":[0.5]}}}`, err: `column 54: member "response" twice in one object`},
	{line: `{"key":"a","error":"x","error":"x"}`, err: `column 24: member "error" twice in one object`},
	{line: `{"key":"a","x":1,"x":2,"response":{"embedding":{"values":[0.5]}}}`, err: `column 18: member "x" twice in one object`},
	{line: "{\"key\":\"a\xff\",\"response\":{\"embedding\":{\"values\":[0.5]}}}", err: "column 10: invalid UTF-8, byte 0xff: convert the text to UTF-8"},
	{line: "{\"key\":\"a\",\"x\":[\"\xc0\x80\"],\"response\":{\"embedding\":{\"values\":[0.5]}}}", err: "column 18: invalid UTF-8, byte 0xc0: convert the text to UTF-8"},
	{line: "{\"key\":\"a\",\"\xed\xa0\x80\":1,\"response\":{\"embedding\":{\"values\":[0.5]}}}", err: "column 13: invalid UTF-8, byte 0xed: convert the text to UTF-8"},
	{line: "{\"key\":\"a\x00b\",\"response\":{\"embedding\":{\"values\":[0.5]}}}", err: "column 10: control character 0x00 in a string"},
	{line: "{\"key\":\"a\",\"some longer text\":\"x\ty\",\"response\":{\"embedding\":{\"values\":[0.5]}}}", err: "column 33: control character 0x09 in a string"},
	{line: `{"key":"\ud800","response":{"embedding":{"values":[0.5]}}}`, err: "column 9: half a surrogate pair"},
	{line: `{"key":"a","x":"\udc00\ud800","response":{"embedding":{"values":[0.5]}}}`, err: "column 17: half a surrogate pair"},
	{line: `{"key":"\x41","response":{"embedding":{"values":[0.5]}}}`, err: "column 9: unknown escape"},
	{line: `{"key":"\u00g1","response":{"embedding":{"values":[0.5]}}}`, err: `column 9: \u without four hex digits`},
	{line: `{"key":"a","x":tru,"response":{"embedding":{"values":[0.5]}}}`, err: "column 16: 't' where a value was expected"},
	{line: `{"key":"a","x":[1 2],"response":{"embedding":{"values":[0.5]}}}`, err: "column 19: '2' where ',' or ']' was expected"},
	{line: `{"key":"a","x":{"y"},"response":{"embedding":{"values":[0.5]}}}`, err: "column 20: '}' where ':' was expected"},
	{line: `{"key":"a","x":{y":1},"response":{"embedding":{"values":[0.5]}}}`, err: "column 17: 'y' where a member name was expected"},
	{line: `{key":"a","response":{"embedding":{"values":[0.5]}}}`, err: "column 2: 'k' where a member name was expected"},
	{line: "{\"response\":{\"embedding\":{\"values\":[0.5]}},\"x\":\"\xff\"}", err: "column 49: invalid UTF-8, byte 0xff: convert the text to UTF-8"},
	{line: `{"key":"a","x":01,"response":{"embedding":{"values":[0.5]}}}`, err: "column 16: a number with a leading zero"},
	{line: `{"key":"a","x":nothing,"response":{"embedding":{"values":[0.5]}}}`, err: "column 16: 'n' where a value was expected"},
	// Nesting.
	{line: `{"x":` + nest(31) + `,"response":{"embedding":{"values":[0.5]}}}`, want: Response{Values: []float32{0.5}, Tokens: -1}},
	{line: `{"x":` + nest(63) + `,"response":{"embedding":{"values":[0.5]}}}`, want: Response{Values: []float32{0.5}, Tokens: -1}},
	{line: `{"x":` + nest(64) + `,"response":{"embedding":{"values":[0.5]}}}`, err: "column 69: nested deeper than 64"},
	{line: `{"x":` + nest(20_000) + `,"response":{"embedding":{"values":[0.5]}}}`, err: "column 69: nested deeper than 64"},
	{line: `{"response":{"embedding":{"values":[0.5],"x":` + strings.Repeat(`{"a":`, 20_000), err: "column 351: nested deeper than 64"},
	// Many members.
	{line: `{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"response":{"embedding":{"values":[0.5]}}}`, want: Response{Values: []float32{0.5}, Tokens: -1}},
}

func TestResponse(t *testing.T) {
	var p ResponseParser
	for _, c := range responses {
		got, err := p.Parse([]byte(c.line))
		switch {
		case err != nil || c.err != "":
			if fmt.Sprint(err) != c.err {
				t.Errorf("%.200s: got %+v, error %v; want error %s", c.line, got, err, c.err)
			}
		case !reflect.DeepEqual(*got, c.want):
			t.Errorf("%.200s: got %+v, want %+v", c.line, *got, c.want)
		}
		compareResponse(t, []byte(c.line))
	}
}

// Only the errors of valid lines are AnswerErrors, and these name the key.
func TestAnswerError(t *testing.T) {
	var p ResponseParser
	for _, c := range responses {
		_, err := p.Parse([]byte(c.line))
		var bad *AnswerError
		if errors.As(err, &bad) != strings.Contains(c.err, "the answer has") {
			t.Errorf("%.200s: the error is a %T", c.line, err)
		}
		if bad != nil && bad.Key != "" != strings.HasPrefix(c.err, `key "a"`) {
			t.Errorf("%.200s: the error's key is %q", c.line, bad.Key)
		}
	}
}

// A parser that was used before reads each line like a new one.
func TestResponseReuse(t *testing.T) {
	long := []byte(`{"key":"long","response":{"tokenCount":99,"embedding":{"values":[9` + strings.Repeat(",9", 2000) + `]}}}`)
	failed := []byte(`{"key":"failed","error":{"code":13,"message":"m"}}`)
	var used ResponseParser
	for _, before := range [][]byte{long, failed} {
		for _, c := range responses {
			if _, err := used.Parse(before); err != nil {
				t.Fatal(err)
			}
			got, err := used.Parse([]byte(c.line))
			want, wantErr := new(ResponseParser).Parse([]byte(c.line))
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(err, wantErr) {
				t.Errorf("%.200s after %.20s: got %+v, %v; want %+v, %v", c.line, before, got, err, want, wantErr)
			}
		}
	}
}

// A line that is cut off anywhere is refused.
func TestResponseTruncated(t *testing.T) {
	var p ResponseParser
	for _, c := range responses {
		if c.err != "" {
			continue
		}
		line := strings.TrimRight(c.line, " \r\n")
		for n := range line {
			if got, err := p.Parse([]byte(line[:n])); err == nil {
				t.Fatalf("%s: got %+v", line[:n], got)
			}
		}
	}
}

// compareResponse compares an accepted line with encoding/json.
func compareResponse(t *testing.T, line []byte) {
	t.Helper()
	got, err := new(ResponseParser).Parse(line)
	if err != nil {
		return
	}
	if !utf8.Valid(line) || !json.Valid(line) {
		t.Fatalf("%q: accepted", line)
	}
	var key *string
	var values []float32
	top := members(t, line)
	if err := json.Unmarshal(or(top["key"], "null"), &key); err != nil || (key != nil) != got.HasKey || key != nil && *key != got.Key {
		t.Fatalf("%q: the key is %q, encoding/json %v", line, got.Key, err)
	}
	response := members(t, or(top["response"], "{}"))
	if isError(top["error"]) || isError(response["error"]) {
		if got.Err == nil || got.Values != nil {
			t.Fatalf("%q: an error, and not; %+v", line, got)
		}
		return
	}
	embedding := members(t, or(response["embedding"], "{}"))
	if err := json.Unmarshal(embedding["values"], &values); err != nil || !reflect.DeepEqual(values, got.Values) {
		t.Fatalf("%q: got %v, encoding/json %v, %v", line, got.Values, values, err)
	}
}

func members(t *testing.T, b []byte) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil && b[0] == '{' {
		t.Fatalf("%q: accepted, by encoding/json %v", b, err)
	}
	return m
}

func isError(b json.RawMessage) bool {
	return string(or(b, "null")) != "null" && googleStatus(b) != nil
}

func or(b json.RawMessage, instead string) []byte {
	if b == nil {
		return []byte(instead)
	}
	return b
}

func FuzzResponse(f *testing.F) {
	for _, c := range responses {
		if len(c.line) < 1000 {
			f.Add([]byte(c.line))
		}
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		compareResponse(t, line)
		compareRefusal(t, line)
	})
}

// compareRefusal checks that a refused line that encoding/json accepts has one
// of the faults that encoding/json tolerates.
func compareRefusal(t *testing.T, line []byte) {
	t.Helper()
	_, err := new(ResponseParser).Parse(line)
	if err == nil || errors.As(err, new(*AnswerError)) || !json.Valid(line) {
		return
	}
	for _, known := range []string{"not a JSON object", "invalid UTF-8", "half a surrogate pair", "twice in one object", "nested deeper", "it must be a string"} {
		if strings.Contains(err.Error(), known) {
			return
		}
	}
	t.Fatalf("%q: %v", line, err)
}

const packed = "AAAAPwAAoL/bD0lAwhYBAA==" // 0.5, -1.25, 3.1415927, 1e-40: see package vector

var (
	packedValues = []float32{0.5, -1.25, 3.1415927, 1e-40}
	vectorLines  = []struct {
		line string
		want Answer // if err is empty
		err  string
	}{
		{line: `{"key":"a","batch":"b01K","dim":4,"vector":"` + packed + `","tokens":3}`, want: Answer{Key: "a", Batch: "b01K", Values: packedValues, Tokens: 3}},
		{line: `{"key":"a","batch":"b01K","dim":4,"vector":"` + packed + `"}`, want: Answer{Key: "a", Batch: "b01K", Values: packedValues, Tokens: -1}},
		{line: `{"key":"a","dim":4,"vector":"` + packed + `","tokens":0}` + "\r\n", want: Answer{Key: "a", Batch: "", Values: packedValues, Tokens: 0}},
		{line: `{"key":"ключ","dim":0,"vector":""}` + " \t", want: Answer{Key: "ключ", Batch: "", Values: []float32{}, Tokens: -1}},
		{line: `{"key":"a\n\"","batch":"b","dim":4,"vector":"` + packed + `"}`, want: Answer{Key: "a\n\"", Batch: "b", Values: packedValues, Tokens: -1}},
		{line: `{"key":"a","batch":"\u0062","dim":4,"vector":"` + packed + `"}`, want: Answer{Key: "a", Batch: "b", Values: packedValues, Tokens: -1}},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"AAAAPwAAoL\/bD0lAwhYBAA\u003d\u003d"}`, want: Answer{Key: "a", Batch: "b", Values: packedValues, Tokens: -1}},
		{line: `{"tokens":5,"vector":"` + packed + `","model":"m","dim":4,"batch":"b","key":"a"}`, want: Answer{Key: "a", Batch: "b", Values: packedValues, Tokens: 5}},
		{line: ` { "key" : "a" , "dim" : 4 , "vector" : "` + packed + `" } `, want: Answer{Key: "a", Batch: "", Values: packedValues, Tokens: -1}},
		{line: `{"key":"a","batch":null,"dim":4,"vector":"` + packed + `","tokens":null}`, want: Answer{Key: "a", Batch: "", Values: packedValues, Tokens: -1}},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"` + packed + `","tokens":3,"vec\u0074or":""}`, err: `column 79: member "vector" twice in one object`},
		{line: `{"key":"","batch":"b","dim":4,"vector":"` + packed + `"}`, err: "the vector has no key"},
		{line: `{"batch":"b","dim":4,"vector":"` + packed + `"}`, err: "the vector has no key"},
		{line: `{"key":"a","batch":"b","vector":"` + packed + `"}`, err: `key "a": the vector has no dim`},
		{line: `{"key":"a","batch":"b","dim":3,"vector":"` + packed + `"}`, err: `key "a": dim is 3, but the vector has 4 values`},
		{line: `{"key":"a","batch":"b","dim":5,"vector":"` + packed + `"}`, err: `key "a": dim is 5, but the vector has 4 values`},
		{line: `{"key":"a","batch":"b","dim":99999999999999999999,"vector":"` + packed + `"}`, err: `dim is 99999999999999999999; it must be a whole number, 0 or more`},
		{line: `{"key":"a","batch":"b","dim":-4,"vector":"` + packed + `"}`, err: `dim is -4; it must be a whole number, 0 or more`},
		{line: `{"key":"a","batch":"b","dim":"4","vector":"` + packed + `"}`, err: `dim is "4"; it must be a whole number, 0 or more`},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"` + packed + `","tokens":1.5}`, err: `tokens is 1.5; it must be a whole number, 0 or more`},
		{line: `{"key":5,"batch":"b","dim":4,"vector":"` + packed + `"}`, err: `key is 5; it must be a string`},
		{line: `{"key":"a","batch":"b","dim":4,"vector":{}}`, err: `vector is {}; it must be base64 or an array of numbers`},
		{line: `{"key":"a","batch":"b","dim":4,"vector":null}`, err: "not a vector, an error or a job record"},
		{line: `{"key":"a","batch":"b","dim":4,"Vector":"` + packed + `"}`, err: "not a vector, an error or a job record"},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"AAAAPwAAoL/bD0lAwhYBAA"}`, err: "vector: not base64 as StdEncoding writes it"},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"AAAAPwAAoL_bD0lAwhYBAA=="}`, err: "vector: not base64 as StdEncoding writes it"},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"AAAAPwAAoL/bD0lAwhYB"}`, err: "vector: 15 bytes are not whole float32 values"},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"` + packed + `"}x`, err: "column 68: text after the object"},
		{line: `{"key":"a","batch":"b","dim":04,"vector":"` + packed + `"}`, err: "column 30: a number with a leading zero"},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"` + packed + `","tokens":03}`, err: "column 77: a number with a leading zero"},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"` + packed, err: "column 41: a string that does not end"},
		{line: `{"key":"a","batch":"b","dim":4,"vector":"` + packed + `","tokens":`, err: "column 77: the line ends where a value was expected"},
		{line: "{\"key\":\"a\xff\",\"dim\":4,\"vector\":\"" + packed + "\"}", err: "column 10: invalid UTF-8, byte 0xff: convert the text to UTF-8"},
		{line: "{\"key\":\"a\x01\",\"dim\":4,\"vector\":\"" + packed + "\"}", err: "column 10: control character 0x01 in a string"},
		{line: ``, err: "column 1: not a JSON object"},
	}
)

func TestVectorLine(t *testing.T) {
	var used AnswerParser
	for _, c := range vectorLines {
		got, err := used.Parse([]byte(c.line))
		switch {
		case err != nil || c.err != "":
			if fmt.Sprint(err) != c.err {
				t.Errorf("%s: got %+v, error %v; want error %s", c.line, got, err, c.err)
			}
		case !reflect.DeepEqual(got, c.want):
			t.Errorf("%s: got %+v, want %+v", c.line, got, c.want)
		}
		compareVectorLine(t, []byte(c.line))
	}
}

// compareVectorLine compares an accepted vector with encoding/json.
func compareVectorLine(t *testing.T, line []byte) {
	t.Helper()
	got, err := new(AnswerParser).Parse(line)
	if err != nil || got.Job != nil || got.Err != nil {
		return
	}
	m := members(t, line)
	var key string
	var raw []byte
	if err := errors.Join(json.Unmarshal(m["key"], &key), json.Unmarshal(m["vector"], &raw)); err != nil || key != got.Key || !bytes.Equal(raw, littleEndian(got.Values)) {
		t.Fatalf("%q: got %+v, encoding/json %q, %x, %v", line, got, key, raw, err)
	}
}

// littleEndian is for comparing values bit for bit, because a vector may hold
// NaNs here.
func littleEndian(values []float32) (raw []byte) {
	for _, x := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	return raw
}

func FuzzVectorLine(f *testing.F) {
	for _, c := range vectorLines {
		f.Add([]byte(c.line), "a", int64(1))
	}
	f.Fuzz(func(t *testing.T, line []byte, key string, tokens int64) {
		compareVectorLine(t, line)
		// What is written can be read back: the line is equal to the values.
		if !utf8.ValidString(key) || key == "" {
			return
		}
		var values []float32
		for ; len(line) >= 4; line = line[4:] {
			values = append(values, math.Float32frombits(binary.LittleEndian.Uint32(line)))
		}
		got, err := new(AnswerParser).Parse(AppendVectorLine(nil, key, key, values, tokens))
		if err != nil || got.Key != key || got.Batch != key || got.Tokens != max(tokens, -1) || !bytes.Equal(littleEndian(got.Values), littleEndian(values)) {
			t.Fatalf("got %+v, %v", got, err)
		}
	})
}

func TestAppendVectorLine(t *testing.T) {
	for _, c := range []struct {
		key, batch string
		values     []float32
		tokens     int64
		want       string
	}{
		{"chunk_123", "b01K", packedValues, 3, `{"key":"chunk_123","batch":"b01K","dim":4,"vector":"` + packed + `","tokens":3}`},
		{"a", "", packedValues, -1, `{"key":"a","dim":4,"vector":"` + packed + `"}`},
		{"a", "", nil, 0, `{"key":"a","dim":0,"vector":"","tokens":0}`},
		{"\"\\/\n\x01é\u2028<&>", "b\t", packedValues[:1], 1, `{"key":"\"\\/\n\u0001é` + "\u2028" + `<&>","batch":"b\t","dim":1,"vector":"AAAAPw==","tokens":1}`},
	} {
		line := AppendVectorLine([]byte("before\n"), c.key, c.batch, c.values, c.tokens)
		if string(line) != "before\n"+c.want+"\n" {
			t.Errorf("got %s, want %s", line, c.want)
		}
		// encoding/json reads the line as the specification says.
		var v Vector
		line = line[len("before\n"):]
		if err := json.Unmarshal(line, &v); err != nil || v.Key != c.key || v.Batch != c.batch || v.Dim != len(c.values) || v.Tokens != max(c.tokens, 0) {
			t.Errorf("%s: decoded %+v, %v", line, v, err)
		}
		if c.tokens > 0 {
			if want, err := ndjson.Marshal(v); err != nil || string(line) != string(want)+"\n" && !strings.Contains(c.key, "\u2028") {
				t.Errorf("got %s, as a Vector it is %s, %v", line, want, err)
			}
		}
	}
}

// There is one allocation for each line, for the key.
func TestAllocs(t *testing.T) {
	line := []byte(usual)
	var p ResponseParser
	var v AnswerParser
	var out []byte
	if n := testing.AllocsPerRun(100, func() {
		r, err := p.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		out = AppendVectorLine(out[:0], r.Key, "b01K", r.Values, r.Tokens)
	}); n > 1 {
		t.Errorf("%v allocations for a response", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := v.Parse(out); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%v allocations for a vector line", n)
	}
}

// resultLines returns lines like Google's, with unit vectors.
func resultLines(n, dim, bits int) [][]byte {
	r := rand.New(rand.NewPCG(1, uint64(dim)))
	lines := make([][]byte, n)
	for i := range lines {
		b := []byte(`{"response":{"tokenCount":"` + strconv.Itoa(100+i) + `","embedding":{"values":[`)
		for j := range dim {
			if j > 0 {
				b = append(b, ',')
			}
			x := r.NormFloat64() / math.Sqrt(float64(dim))
			if bits == 32 {
				x = float64(float32(x))
			}
			b = strconv.AppendFloat(b, x, 'g', -1, bits)
		}
		lines[i] = append(b, `]}},"key":"chunk_`+strconv.Itoa(100000+i)+`"}`...)
	}
	return lines
}

var shapes = []struct {
	name      string
	dim, bits int
}{{"f32_768", 768, 32}, {"f32_3072", 3072, 32}, {"f64_768", 768, 64}, {"f64_3072", 3072, 64}}

func eachLine(b *testing.B, name string, lines [][]byte, f func(line []byte) error) {
	b.Run(name, func(b *testing.B) {
		size := 0
		for _, line := range lines {
			size += len(line)
		}
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for b.Loop() {
			for _, line := range lines {
				if err := f(line); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.N*len(lines))/b.Elapsed().Seconds(), "lines/s")
	})
}

// googles is the line as a struct, for the other libraries.
type googles struct {
	Key      string `json:"key"`
	Response struct {
		TokenCount int64 `json:"tokenCount,string"`
		Embedding  struct {
			Values []float32 `json:"values"`
		} `json:"embedding"`
	} `json:"response"`
}

// BenchmarkConvert converts a line of Google's to a line of gbatch's.
func BenchmarkConvert(b *testing.B) {
	for _, s := range shapes {
		lines := resultLines(32, s.dim, s.bits)
		var p ResponseParser
		var out []byte
		eachLine(b, s.name+"/record", lines, func(line []byte) error {
			r, err := p.Parse(line)
			if err != nil {
				return err
			}
			out = AppendVectorLine(out[:0], r.Key, "b01K", r.Values, r.Tokens)
			return nil
		})
		eachLine(b, s.name+"/array", lines, func(line []byte) error {
			r, err := p.Parse(line)
			if err != nil {
				return err
			}
			out = appendArrayLine(out[:0], r.Key, "b01K", r.Values, r.Tokens)
			return nil
		})
		for _, library := range []struct {
			name      string
			unmarshal func([]byte, any) error
		}{{"goccy", func(b []byte, v any) error { return gojson.Unmarshal(b, v) }}, {"encoding_json", json.Unmarshal}} {
			var g googles
			var raw []byte
			eachLine(b, s.name+"/"+library.name, lines, func(line []byte) error {
				g.Response.Embedding.Values = g.Response.Embedding.Values[:0]
				if err := library.unmarshal(line, &g); err != nil {
					return err
				}
				raw = raw[:0]
				for _, x := range g.Response.Embedding.Values {
					raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
				}
				out = append(append(out[:0], `{"key":"`...), g.Key...)
				out = fmt.Appendf(out, `","batch":"b01K","dim":%d,"vector":"`, len(g.Response.Embedding.Values))
				out = base64.StdEncoding.AppendEncode(out, raw)
				out = fmt.Appendf(out, "\",\"tokens\":%d}\n", g.Response.TokenCount)
				return nil
			})
		}
		eachLine(b, s.name+"/copy", lines, func(line []byte) error {
			out = append(out[:0], line...)
			return nil
		})
	}
}

// BenchmarkVectorLine reads the values of a line of gbatch's.
func BenchmarkVectorLine(b *testing.B) {
	for _, s := range shapes[:2] {
		var p ResponseParser
		var lines [][]byte
		for _, line := range resultLines(32, s.dim, s.bits) {
			r, err := p.Parse(line)
			if err != nil {
				b.Fatal(err)
			}
			lines = append(lines, AppendVectorLine(nil, r.Key, "b01K", r.Values, r.Tokens))
		}
		var v AnswerParser
		eachLine(b, s.name+"/answer", lines, func(line []byte) error { _, err := v.Parse(line); return err })
		var rec Vector
		eachLine(b, s.name+"/goccy", lines, func(line []byte) error { return gojson.Unmarshal(line, &rec) })
		eachLine(b, s.name+"/encoding_json", lines, func(line []byte) error { return json.Unmarshal(line, &rec) })
	}
}
