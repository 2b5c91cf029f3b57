package record

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"gbatch/pkg/vector"
)

var answerLines = []struct {
	line string
	want Answer
	bad  string
}{
	{line: `{"key":"a","batch":"b","dim":1,"vector":"AACAPw==","tokens":3}`, want: Answer{Key: "a", Batch: "b", Values: []float32{1}, Tokens: 3}},
	{line: `{"vector":"AACAPw==","dim":1, "batch":"b","key":"a\"b","more":[1]}`, want: Answer{Key: `a"b`, Batch: "b", Values: []float32{1}, Tokens: -1}},
	{line: `{"key":"a","batch":"b","error":{"code":3,"status":"INVALID_ARGUMENT","message":"no"}}`, want: Answer{Key: "a", Batch: "b", Tokens: -1, Err: &Status{3, "INVALID_ARGUMENT", "no"}}},
	{line: `{"job":"batches/x","batch":"b","state":"FAILED","model":"m","dim":1,"requests":1,"error":{"code":13,"message":"why"}}`,
		want: Answer{Batch: "b", Job: &Job{Job: "batches/x", Batch: "b", State: Failed, Model: "m", Dim: 1, Requests: 1, Error: &Status{Code: 13, Message: "why"}}}},
	{line: `{"key":"a","dim":2,"vector":"AACAPw=="}`, bad: "dim is 2"},
	{line: `{"key":"a","dim":1,"vector":"AACAP"}`, bad: "vector"},
	{line: `{"key":"a","batch":"b","dim":3,"vector":[1, -0.5,1e-9],"tokens":3}`, want: Answer{Key: "a", Batch: "b", Values: []float32{1, -0.5, 1e-9}, Tokens: 3}},
	{line: `{"vector":[0.25],"dim":1,"key":"a"}`, want: Answer{Key: "a", Values: []float32{0.25}, Tokens: -1}},
	{line: `{"key":"a","dim":0,"vector":[]}`, want: Answer{Key: "a", Values: []float32{}, Tokens: -1}},
	{line: `{"key":"a","dim":1,"vector":5}`, bad: "must be base64 or an array of numbers"},
	{line: `{"key":"a","dim":2,"vector":[1]}`, bad: "dim is 2"},
	{line: `{"key":"a","dim":1,"vector":[null]}`, bad: "null"},
	{line: `{"key":"a","dim":1,"vector":["1"]}`, bad: "vector: offset 1"},
	{line: `{"key":"a","dim":1,"vector":[1e99]}`, bad: "does not fit a float32"},
	{line: `{"key":"a","dim":1,"vector":[NaN]}`, bad: "a value was expected"},
	{line: `{"key":"a","dim":1,"vector":[1`, bad: "column"},
	{line: `{"dim":1,"vector":"AACAPw=="}`, bad: "no key"},
	{line: `{"batch":"b","error":{"code":3,"message":"no"}}`, bad: "no key"},
	{line: `{"key":"a"}`, bad: "not a vector"},
	{line: `{"key":"a","dim":1,"vector":"AACAPw=="`, bad: "column"},
	{line: `[]`, bad: "column 1"},
	{line: `{"job":5}`, bad: "job"},
	{line: `{"id":"a","text":"b"}`, bad: "not a vector"},
}

func TestAnswer(t *testing.T) {
	var p AnswerParser
	for _, test := range answerLines {
		got, err := p.Parse([]byte(test.line))
		switch {
		case test.bad == "" && (err != nil || !reflect.DeepEqual(got, test.want)):
			t.Errorf("%s\n got %+v, %v\nwant %+v", test.line, got, err, test.want)
		case test.bad != "" && (err == nil || !strings.Contains(err.Error(), test.bad)):
			t.Errorf("%s: %v, want an error with %q", test.line, err, test.bad)
		}
	}
}

// FuzzAnswer compares the parser with encoding/json: if both accept a line, they
// must read the same from it.
func FuzzAnswer(f *testing.F) {
	for _, test := range answerLines {
		f.Add(test.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var p AnswerParser
		got, err := p.Parse([]byte(line))
		if err != nil {
			return
		}
		if !json.Valid([]byte(line)) || !utf8.ValidString(line) {
			t.Fatalf("%q is not JSON", line)
		}
		if got.Job != nil {
			again, err := json.Marshal(got.Job)
			if err != nil {
				t.Fatal(err)
			}
			second, err := p.Parse(again)
			if err != nil || !reflect.DeepEqual(second, got) {
				t.Errorf("%q becomes %s, read as %+v (%v)", line, again, second.Job, err)
			}
			return
		}
		if got.Key == "" {
			t.Errorf("%q gives no key", line)
		}
		if got.Err != nil {
			return
		}
		values := slices.Clone(got.Values)
		lines := [][]byte{AppendVectorLine(nil, got.Key, got.Batch, values, got.Tokens)}
		if vector.Finite(values) {
			lines = append(lines, appendArrayLine(nil, got.Key, got.Batch, values, got.Tokens))
		}
		for _, again := range lines {
			second, err := p.Parse(again)
			if err != nil || second.Key != got.Key || second.Batch != got.Batch || second.Tokens != got.Tokens || !json.Valid(again) {
				t.Errorf("%q becomes %s (%v)", line, again, err)
			}
			if !slices.EqualFunc(second.Values, values, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
				t.Errorf("%q becomes %s, with the values %v", line, again, second.Values)
			}
		}
	})
}

var chunkLines = []struct {
	line string
	want Chunk
	bad  string
}{
	{line: `{"id":"a","text":"t"}`, want: Chunk{ID: "a", Text: "t"}},
	{line: `{"context":"c","title":"T","text":"t","id":7,"x":{}}`, want: Chunk{ID: "7", Text: "t", Title: "T", Context: "c"}},
	{line: `{"id":"\u00e9\ud83d\ude42","text":"\t\u2028","title":null}`, want: Chunk{ID: "é🙂", Text: "\t\u2028"}},
	{line: `{"id":"a","text":"","context":"c"}`, want: Chunk{ID: "a", Context: "c"}},
	{line: `{"id":"a","text":"t","end":9}`, want: Chunk{ID: "a", Text: "t"}},
	{line: `{"end":true}`},
	{line: `{"end":false}`, bad: "end is false; it must be true"},
	{line: `{"end":"true"}`, bad: "end is"},
	{line: `{"end":null}`, bad: "no id"},
	{line: `{"id":"a"}`, bad: "no text"},
	{line: `{"id":"","text":"t"}`, bad: "the id is empty"},
	{line: `{"text":"t"}`, bad: "no id"},
	{line: `{"id":-1.0,"text":"t"}`, bad: "the id is -1.0"},
	{line: `{"id":null,"text":"t"}`, bad: "no id"},
	{line: `{"id":[],"text":"t"}`, bad: "the id is []"},
	{line: `{"id":"a","text":["t"]}`, bad: "text is"},
	{line: `{"id":"a","id":"b","text":"t"}`, bad: "id"},
	{line: `{"id":"a","text":"` + "\x01" + `"}`, bad: "control"},
	{line: `{"id":"a","text":"\ud800"}`, bad: "surrogate"},
	{line: `{"id":"a","text":"` + "\xff" + `"}`, bad: "UTF-8"},
}

func TestChunk(t *testing.T) {
	for _, test := range chunkLines {
		var got Chunk
		end, err := got.Parse([]byte(test.line))
		switch {
		case end != (test.line == `{"end":true}`):
			t.Errorf("%s: is an end: %t", test.line, end)
		case test.bad == "" && (err != nil || got != test.want):
			t.Errorf("%s\n got %+v, %v\nwant %+v", test.line, got, err, test.want)
		case test.bad != "" && (err == nil || !strings.Contains(err.Error(), test.bad)):
			t.Errorf("%s: %v, want an error with %q", test.line, err, test.bad)
		}
	}
}

// FuzzChunk checks that a chunk that was read can be written and read again.
func FuzzChunk(f *testing.F) {
	for _, test := range chunkLines {
		f.Add(test.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var got, again Chunk
		if end, err := got.Parse([]byte(line)); end || err != nil {
			return
		}
		if !json.Valid([]byte(line)) || !utf8.ValidString(got.ID+got.Text+got.Title+got.Context) {
			t.Errorf("%q was taken", line)
		}
		written, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Parse(written); err != nil || again != got {
			t.Errorf("%q becomes %s, read as %+v (%v)", line, written, again, err)
		}
	})
}
