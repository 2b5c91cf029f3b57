package render

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

func render(t *testing.T, c ToJSONL, in string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := c.Run(context.Background(), strings.NewReader(in), &out)
	return out.String(), err
}

const (
	header001 = `{"batch":"b1","count":1,"model":"gemini-embedding-001","dim":768,"task_type":"RETRIEVAL_DOCUMENT"}` + "\n"
	chunk     = `{"id":"k","text":"x","title":"t"}`
	below     = `{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"t","outputDimensionality":768}}` + "\n"
	request   = `{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"t","outputDimensionality":768}}` + "\n"
)

// Every shape of line is compared byte for byte.
func TestShapes(t *testing.T) {
	header := func(model string, dim int, taskType string) string {
		return fmt.Sprintf(`{"batch":"b1","count":1,"model":%q,"dim":%d,"task_type":%q}`+"\n", model, dim, taskType)
	}
	for _, test := range []struct {
		name    string
		command ToJSONL
		in      string
		want    string
	}{
		{"defaults", ToJSONL{}, chunk, request},
		{"no title", ToJSONL{}, `{"id":"k","text":"x"}`,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"taskType":"RETRIEVAL_DOCUMENT","outputDimensionality":768}}` + "\n"},
		{"empty title", ToJSONL{}, `{"id":"k","text":"x","title":""}`,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"taskType":"RETRIEVAL_DOCUMENT","outputDimensionality":768}}` + "\n"},
		{"null title and context", ToJSONL{}, `{"id":"k","text":"x","title":null,"context":null}`,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"taskType":"RETRIEVAL_DOCUMENT","outputDimensionality":768}}` + "\n"},
		{"context", ToJSONL{}, `{"context":"all of it","title":"t","text":"x","id":"k"}`,
			`{"key":"k","request":{"content":{"parts":[{"text":"all of it"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"t","outputDimensionality":768}}` + "\n"},
		{"empty context", ToJSONL{}, `{"id":"k","text":"x","title":"t","context":""}`, request},
		{"context without text", ToJSONL{}, `{"id":"k","text":"","title":"t","context":"x"}`, request},
		{"escapes stay as they are", ToJSONL{}, `{"id":"a\"\u00e9 b","text":"\ud83d\ude00\/\n😀` + "\u2028" + `"}`,
			`{"key":"a\"\u00e9 b","request":{"content":{"parts":[{"text":"\ud83d\ude00\/\n😀` + "\u2028" + `"}]},"taskType":"RETRIEVAL_DOCUMENT","outputDimensionality":768}}` + "\n"},
		{"number as id", ToJSONL{}, `{"id":123,"text":"x","title":"t"}`, strings.Replace(request, `"k"`, `"123"`, 1)},
		{"escaped member names", ToJSONL{}, `{"\u0069d":"k","t\u0065xt":"x","title":"t"}`, request},
		{"members that are ignored", ToJSONL{}, `{"n":[{"id":"no"}],"ID":"no","Text":1,"count":7,"id":"k","text":"x","title":"t"}`, request},
		{"space, CRLF, BOM, blank lines", ToJSONL{}, "\xef\xbb\xbf\r\n { \"id\" : \"k\" , \"text\" : \"x\",\"title\":\"t\" } \r\n\n", request},
		{"other flags", ToJSONL{SpaceFlags: SpaceFlags{Model: "m", Dim: 3, TaskType: "CLUSTERING"}}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"taskType":"CLUSTERING","outputDimensionality":3}}` + "\n"},
		{"no task type", ToJSONL{SpaceFlags: SpaceFlags{TaskType: "TASK_TYPE_UNSPECIFIED"}}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"outputDimensionality":768}}` + "\n"},

		{"header", ToJSONL{}, header001 + chunk, header001 + below},
		{"header, other values", ToJSONL{}, header("m", 64, "RETRIEVAL_QUERY") + chunk, header("m", 64, "RETRIEVAL_QUERY") +
			`{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"taskType":"RETRIEVAL_QUERY","outputDimensionality":64}}` + "\n"},
		{"header as it is written", ToJSONL{}, `{ "count":1, "batch":"\u0062", "dim":768, "model":"gemini-embedding-001", "x":1 }` + "\n" + chunk,
			`{ "count":1, "batch":"\u0062", "dim":768, "model":"gemini-embedding-001", "x":1 }` + "\n" + `{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"outputDimensionality":768}}` + "\n"},
		{"header that is completed", ToJSONL{SpaceFlags: SpaceFlags{Dim: 5}}, `{"batch":"b1","count":1,"task_type":"CLUSTERING"}` + "\n" + chunk,
			`{"batch":"b1","count":1,"model":"gemini-embedding-001","dim":5,"task_type":"CLUSTERING"}` + "\n" +
				`{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"taskType":"CLUSTERING","outputDimensionality":5}}` + "\n"},
		{"header and the same flags", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-001", Dim: 768, TaskType: "RETRIEVAL_DOCUMENT"}}, header001 + chunk, header001 + below},
		{"header and none by flag", ToJSONL{SpaceFlags: SpaceFlags{TaskType: "TASK_TYPE_UNSPECIFIED"}}, header("m", 1, "") + chunk, header("m", 1, "") +
			`{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"outputDimensionality":1}}` + "\n"},
		{"a batch, none, a batch", ToJSONL{},
			header("m", 2, "CLUSTERING") + chunk + "\n" + chunk + "\n" + header("n", 3, "CLASSIFICATION") + chunk,
			header("m", 2, "CLUSTERING") + `{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"taskType":"CLUSTERING","outputDimensionality":2}}` + "\n" +
				request + header("n", 3, "CLASSIFICATION") + `{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"taskType":"CLASSIFICATION","outputDimensionality":3}}` + "\n"},
		{"empty batch", ToJSONL{}, strings.Replace(header001, `"count":1`, `"count":0`, 1) + chunk, strings.Replace(header001, `"count":1`, `"count":0`, 1) + request},
		{"nothing", ToJSONL{}, "", ""},
		{"blank", ToJSONL{}, "\n \r\n", ""},

		{"flag with a prefix", ToJSONL{SpaceFlags: SpaceFlags{Model: "models/gemini-embedding-2"}}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"title: t | text: x"}]},"outputDimensionality":768}}` + "\n"},
		{"header with a prefix", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-2"}}, header("publishers/google/models/gemini-embedding-2", 768, "RETRIEVAL_DOCUMENT") + chunk,
			header("publishers/google/models/gemini-embedding-2", 768, "RETRIEVAL_DOCUMENT") +
				`{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"title: t | text: x"}]},"outputDimensionality":768}}` + "\n"},
		{"header and flag with a prefix", ToJSONL{SpaceFlags: SpaceFlags{Model: "models/gemini-embedding-001"}}, header001 + chunk, header001 + below},

		{"vertex", ToJSONL{Shape: "vertex"}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"embed_content_config":{"output_dimensionality":768,"title":"t","task_type":"RETRIEVAL_DOCUMENT"}}}` + "\n"},
		{"vertex, no task type", ToJSONL{SpaceFlags: SpaceFlags{TaskType: "TASK_TYPE_UNSPECIFIED"}, Shape: "vertex"}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"embed_content_config":{"output_dimensionality":768}}}` + "\n"},
		{"sdk", ToJSONL{Shape: "sdk"}, chunk,
			`{"key":"k","request":{"model":"models/gemini-embedding-001","contents":[{"parts":[{"text":"x"}]}],"config":{"task_type":"RETRIEVAL_DOCUMENT","output_dimensionality":768,"title":"t"}}}` + "\n"},
		{"sdk, no task type", ToJSONL{SpaceFlags: SpaceFlags{Model: "models/m", TaskType: "TASK_TYPE_UNSPECIFIED"}, Shape: "sdk"}, chunk,
			`{"key":"k","request":{"model":"models/m","contents":[{"parts":[{"text":"x"}]}],"config":{"output_dimensionality":768}}}` + "\n"},

		{"-2, document", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-2"}}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"title: t | text: x"}]},"outputDimensionality":768}}` + "\n"},
		{"-2, document without title", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-2-preview"}}, `{"id":"k","text":"\"x"}`,
			`{"key":"k","request":{"content":{"parts":[{"text":"title: none | text: \"x"}]},"outputDimensionality":768}}` + "\n"},
		{"-2, query", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-2", TaskType: "RETRIEVAL_QUERY"}}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"task: search result | query: x"}]},"outputDimensionality":768}}` + "\n"},
		{"-2, no task type", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-2", TaskType: "TASK_TYPE_UNSPECIFIED"}}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"x"}]},"outputDimensionality":768}}` + "\n"},
		{"-2, vertex", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-2", TaskType: "SEMANTIC_SIMILARITY"}, Shape: "vertex"}, chunk,
			`{"key":"k","request":{"content":{"parts":[{"text":"task: sentence similarity | query: x"}]},"embed_content_config":{"output_dimensionality":768}}}` + "\n"},
		{"-2, sdk", ToJSONL{SpaceFlags: SpaceFlags{Model: "gemini-embedding-2", TaskType: "FACT_VERIFICATION"}, Shape: "sdk"}, chunk,
			`{"key":"k","request":{"model":"models/gemini-embedding-2","contents":[{"parts":[{"text":"task: fact checking | query: x"}]}],"config":{"output_dimensionality":768}}}` + "\n"},
	} {
		got, err := render(t, test.command, test.in)
		if err != nil || got != test.want {
			t.Errorf("%s: %v\n got %s\nwant %s", test.name, err, got, test.want)
		}
	}
}

func TestErrors(t *testing.T) {
	const second = header001 + chunk + "\n" // the wrong line is the third
	for _, test := range []struct {
		name    string
		command ToJSONL
		in      string
		out     string // what is printed before the error
		code    int
		want    string
	}{
		{"not JSON", ToJSONL{}, "\n{", "", 7, `line 2: column 2: an object must be on one line, as jq -c prints it`},
		{"not an object", ToJSONL{}, `["id"]`, "", 7, `line 1: column 1: not a JSON object`},
		{"two objects", ToJSONL{}, chunk + chunk, "", 7, `line 1: column 34: text after the object`},
		{"neither chunk nor header", ToJSONL{}, `{"text":"x"}`, "", 7, `line 1: no id: a chunk has id and text, a batch header has count`},
		{"null as id", ToJSONL{}, `{"id":null,"text":"x"}`, "", 7, `line 1: no id: a chunk has id and text, a batch header has count`},
		{"empty id", ToJSONL{}, `{"id":"","text":"x"}`, "", 7, `line 1: the id is empty: give the chunk an id`},
		{"true as id", ToJSONL{}, `{"id":true,"text":"x"}`, "", 7, `line 1: the id is true; it must be a string or a whole number`},
		{"object as id", ToJSONL{}, `{"id":{"a":1},"text":"x"}`, "", 7, `line 1: the id is {"a":1}; it must be a string or a whole number`},
		{"fraction as id", ToJSONL{}, `{"id":1.5,"text":"x"}`, "", 7, `line 1: the id is 1.5; it must be a string or a whole number`},
		{"exponent as id", ToJSONL{}, `{"id":1e3,"text":"x"}`, "", 7, `line 1: the id is 1e3; it must be a string or a whole number`},
		{"reserved id", ToJSONL{}, `{"id":"gbatch\u002dcanary:1","text":"x"}`, "", 7, `line 1: key "gbatch-canary:1": ids that begin with gbatch-canary: are reserved: give the chunk another id`},
		{"no text", ToJSONL{}, `{"id":"k"}`, "", 7, `line 1: key "k": no text: a chunk has id and text`},
		{"null as text", ToJSONL{}, `{"id":"k","text":null}`, "", 7, `line 1: key "k": no text: a chunk has id and text`},
		{"empty text", ToJSONL{}, `{"id":"k","text":"","context":""}`, "", 7, `line 1: key "k": the text is empty: leave the chunk out or give it text`},
		{"number as text", ToJSONL{}, `{"id":"k","text":5}`, "", 7, `line 1: key "k": text is 5; it must be a string`},
		{"list as title", ToJSONL{}, `{"id":"k","text":"x","title":["a"]}`, "", 7, `line 1: key "k": title is ["a"]; it must be a string`},
		{"object as context", ToJSONL{}, `{"id":"k","text":"x","context":{}}`, "", 7, `line 1: key "k": context is {}; it must be a string`},
		{"invalid UTF-8", ToJSONL{}, "{\"id\":\"k\",\"text\":\"x\xffy\"}", "", 7, `line 1: column 20: invalid UTF-8, byte 0xff: convert the text to UTF-8`},
		{"half a surrogate pair", ToJSONL{}, `{"id":"k","text":"x\ud83dy"}`, "", 7, `line 1: column 20: half a surrogate pair`},
		{"raw tab", ToJSONL{}, "{\"id\":\"k\",\"text\":\"x\ty\"}", "", 7, `line 1: column 20: control character 0x09 in a string`},
		{"the same member twice", ToJSONL{}, `{"id":"k","text":"x","id":"l"}`, "", 7, `line 1: column 22: member "id" twice in one object`},
		{"the same id twice", ToJSONL{}, chunk + "\n\n" + chunk, request, 7, `line 3: key "k" is also on line 1: a batch may have each id only once`},
		{"the same id written differently", ToJSONL{}, chunk + "\n" + `{"id":"\u006b","text":"x"}`, request, 7, `line 2: key "k" is also on line 1: a batch may have each id only once`},
		{"the same id as a number", ToJSONL{}, `{"id":"1","text":"x","title":"t"}` + "\n" + `{"id":1,"text":"x"}`, strings.Replace(request, `"k"`, `"1"`, 1), 7, `line 2: key "1" is also on line 1: a batch may have each id only once`},

		{"no batch name", ToJSONL{}, second + `{"count":1}`, header001 + below, 7, `line 3: a header without the name of its batch`},
		{"number as batch", ToJSONL{}, `{"count":1,"batch":1}`, "", 7, `line 1: header: batch is 1; it must be a string`},
		{"count below 0", ToJSONL{}, `{"batch":"b","count":-1}`, "", 7, `line 1: header of batch b: count is -1, not a number of lines`},
		{"string as count", ToJSONL{}, `{"batch":"b","count":"1"}`, "", 7, `line 1: header of batch b: count is "1", not a number of lines`},
		{"dim 0", ToJSONL{}, `{"batch":"b","count":1,"dim":0}`, "", 7, `line 1: header of batch b: dim is 0, not a number of values from 1 to 3072`},
		{"dim 3073", ToJSONL{}, `{"batch":"b","count":1,"dim":3073}`, "", 7, `line 1: header of batch b: dim is 3073, not a number of values from 1 to 3072`},
		{"string as dim", ToJSONL{}, `{"batch":"b","count":1,"dim":"768"}`, "", 7, `line 1: header of batch b: dim is "768", not a number of values from 1 to 3072`},
		{"unknown task type", ToJSONL{}, `{"batch":"b","count":1,"task_type":"retrieval_document"}`, "", 7, `line 1: batch "b": unknown task type "retrieval_document": use RETRIEVAL_DOCUMENT, RETRIEVAL_QUERY, SEMANTIC_SIMILARITY, CLASSIFICATION, CLUSTERING, QUESTION_ANSWERING, FACT_VERIFICATION, CODE_RETRIEVAL_QUERY`},
		{"model with a space", ToJSONL{}, `{"batch":"b","count":1,"model":"a b"}`, "", 7, `line 1: header of batch b: "a b" is not the name of a model: a name such as gemini-embedding-001 is 1 to 128 letters, digits, dots, dashes and underscores`},
		{"input cut short", ToJSONL{}, strings.Replace(header001, `"count":1`, `"count":3`, 1) + chunk + "\n",
			strings.Replace(header001, `"count":1`, `"count":3`, 1) + below, 7, `line 2: batch "b1": 1 of 3 chunks had come when the input ended: run the command that prints them again`},
		{"header too early", ToJSONL{}, header001 + header001, header001, 7, `line 2: batch "b1": 0 of 1 chunks had come when the next header came: run the command that prints them again`},
		{"line over the limit", ToJSONL{}, chunk + "\n" + strings.Repeat("x", ndjson.MaxLine+1), request, 7, `line 2: longer than 16 MiB, the limit of a line: split or shorten the text`},

		{"model against header", ToJSONL{SpaceFlags: SpaceFlags{Model: "m"}}, header001 + chunk, "", 2, `line 1: --model differs from the header of batch "b1": leave the flag out`},
		{"dim against header", ToJSONL{SpaceFlags: SpaceFlags{Dim: 3072}}, header001 + chunk, "", 2, `line 1: --dim differs from the header of batch "b1": leave the flag out`},
		{"task type against header", ToJSONL{SpaceFlags: SpaceFlags{TaskType: "CLUSTERING"}}, header001 + chunk, "", 2, `line 1: --task-type differs from the header of batch "b1": leave the flag out`},
		{"task type against none", ToJSONL{SpaceFlags: SpaceFlags{TaskType: "CLUSTERING"}}, `{"batch":"b1","count":1,"model":"m","dim":2}`, "", 2, `line 1: --task-type differs from the header of batch "b1": leave the flag out`},
		{"--dim out of range", ToJSONL{SpaceFlags: SpaceFlags{Dim: -1}}, "", "", 2, `dim -1 is out of range: use 1 to 3072`},
		{"--model not a name", ToJSONL{SpaceFlags: SpaceFlags{Model: "\xff"}}, "", "", 2, `"\xff" is not the name of a model: a name such as gemini-embedding-001 is 1 to 128 letters, digits, dots, dashes and underscores`},
		{"--task-type unknown", ToJSONL{SpaceFlags: SpaceFlags{TaskType: "X"}}, "", "", 2, `unknown task type "X": use RETRIEVAL_DOCUMENT, RETRIEVAL_QUERY, SEMANTIC_SIMILARITY, CLASSIFICATION, CLUSTERING, QUESTION_ANSWERING, FACT_VERIFICATION, CODE_RETRIEVAL_QUERY`},
		{"--shape unknown", ToJSONL{Shape: "x"}, "", "", 2, `unknown shape "x": use rest, vertex, sdk`},
	} {
		got, err := render(t, test.command, test.in)
		if err == nil || err.Error() != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.name, err, test.want)
			continue
		}
		var code interface{ ExitCode() int }
		if !errors.As(err, &code) || code.ExitCode() != test.code {
			t.Errorf("%s: not exit code %d", test.name, test.code)
		}
		if got != test.out {
			t.Errorf("%s: printed %s, want %s", test.name, got, test.out)
		}
	}
}

// A header takes precedence over a variable, and a variable completes a header.
func TestVariables(t *testing.T) {
	c := ToJSONL{SpaceFlags: SpaceFlags{Model: "m", Dim: 5, TaskType: "CLUSTERING"}}
	for _, flag := range []string{"model", "dim", "task-type"} {
		if _, err := render(t, c, header001+chunk); err == nil || !strings.Contains(err.Error(), "--"+flag+" differs from the header") {
			t.Errorf("before %s: %v", flag, err)
		}
		c.FromVariable(flag)
	}
	if got, err := render(t, c, header001+chunk); err != nil || got != header001+below {
		t.Errorf("%s, %v", got, err)
	}
	got, err := render(t, c, `{"batch":"b1","count":1}`+"\n"+chunk)
	if want := `{"batch":"b1","count":1,"model":"m","dim":5}` + "\n" + `{"key":"k","claimed":true,"request":{"content":{"parts":[{"text":"x"}]},"outputDimensionality":5}}` + "\n"; err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
}

// The same id may occur in two batches, and again after maxKeys lines.
func TestKeysBounded(t *testing.T) {
	two := header001 + chunk + "\n"
	if got, err := render(t, ToJSONL{}, two+two); err != nil || got != header001+below+header001+below {
		t.Errorf("%s, %v", got, err)
	}
	var k keys
	k.reset()
	for i := range 3*maxKeys - 10 {
		if first, twice := k.add(fmt.Appendf(nil, "key %d", i), i); twice {
			t.Fatalf("key %d was taken for that of line %d", i, first)
		}
		if len(k.lines) > maxKeys {
			t.Fatalf("%d keys held", len(k.lines))
		}
	}
	if first, twice := k.add(fmt.Appendf(nil, "key %d", 3*maxKeys-15), 0); !twice || first != 3*maxKeys-15 {
		t.Errorf("line %d, %v", first, twice)
	}
}

// The output is flushed before the next read, which may wait.
func TestFlush(t *testing.T) {
	var out bytes.Buffer
	var seen []string
	in := &steps{out: &out, seen: &seen, pieces: []string{header001, chunk + "\n" + `{"id":"l"`, `,"text":"y"}`, "\n"}}
	err := new(ToJSONL).Run(context.Background(), in, &out)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"", header001, header001 + below, header001 + below}; !reflect.DeepEqual(seen[:4], want) {
		t.Errorf("printed before each read: %q", seen)
	}
}

// A steps records what was printed before each of its reads.
type steps struct {
	out    *bytes.Buffer
	seen   *[]string
	pieces []string
}

func (s *steps) Read(p []byte) (int, error) {
	*s.seen = append(*s.seen, s.out.String())
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	s.pieces = s.pieces[1:]
	return n, nil
}

func TestStops(t *testing.T) {
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if err := new(ToJSONL).Run(ctx, strings.NewReader(chunk), io.Discard); err != why {
		t.Errorf("cancelled: %v", err)
	}
	if err := new(ToJSONL).Run(context.Background(), strings.NewReader(chunk), broken{}); err != io.ErrClosedPipe {
		t.Errorf("the reader stopped: %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A text of 5 MB can be rendered.
func TestLongText(t *testing.T) {
	text := strings.Repeat("длинный текст ", 200_000)
	got, err := render(t, ToJSONL{}, `{"id":"k","text":"`+text+`","title":"t"}`)
	if err != nil || got != strings.Replace(request, `"x"`, `"`+text+`"`, 1) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Memory does not grow with the number of lines.
func TestAllocations(t *testing.T) {
	in := soup(soups[1].words, 1000)
	perRun := testing.AllocsPerRun(5, func() {
		if err := new(ToJSONL).Run(context.Background(), bytes.NewReader(in), io.Discard); err != nil {
			t.Fatal(err)
		}
	})
	if perRun > 200 {
		t.Errorf("%v allocations for 1000 lines", perRun)
	}
}

// naive renders a chunk with maps and encoding/json.
func naive(c record.Chunk, shape, model string, dim int, taskType string) any {
	text := c.Text
	if c.Context != "" {
		text = c.Context
	}
	options := map[string]any{}
	if strings.HasPrefix(model, "gemini-embedding-2") {
		words := map[string]string{"RETRIEVAL_QUERY": "search result", "SEMANTIC_SIMILARITY": "sentence similarity", "CODE_RETRIEVAL_QUERY": "code retrieval"}[taskType]
		switch title := c.Title; {
		case taskType == "":
		case words != "":
			text = "task: " + words + " | query: " + text
		default:
			if title == "" {
				title = "none"
			}
			text = "title: " + title + " | text: " + text
		}
	} else {
		if taskType != "" {
			options["task type"] = taskType
		}
		if c.Title != "" && taskType == "RETRIEVAL_DOCUMENT" {
			options["title"] = c.Title
		}
	}
	options["dim"] = dim
	spell := func(taskType, dim string) map[string]any {
		m := map[string]any{}
		for name, value := range options {
			switch name {
			case "task type":
				name = taskType
			case "dim":
				name = dim
			}
			m[name] = value
		}
		return m
	}
	content := map[string]any{"parts": []any{map[string]any{"text": text}}}
	var request map[string]any
	switch shape {
	case "rest":
		request = spell("taskType", "outputDimensionality")
		request["content"] = content
	case "vertex":
		request = map[string]any{"content": content, "embed_content_config": spell("task_type", "output_dimensionality")}
	case "sdk":
		request = map[string]any{"model": "models/" + model, "contents": []any{content}, "config": spell("task_type", "output_dimensionality")}
	}
	return map[string]any{"key": c.ID, "claimed": true, "request": request}
}

// again decodes the JSON of v.
func again(t *testing.T, v any) (back any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	return back
}

// Random chunks, written in random ways, are rendered. encoding/json reads the
// same from the result as from the naive renderer's.
func TestAgainstNaive(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	letters := []string{"a", "plain words ", " ", "é", "Ж", "漢字", "😀", "👩‍👩‍👧", "\u2028", "\"", "\\", "/", "\n", "\t", "\x00", "\x1f", "\x7f", "<", "&", "\ufffd", "\U0010ffff", "{}", "]"}
	text := func(max int) string {
		var b strings.Builder
		for range rnd.IntN(max + 1) {
			b.WriteString(letters[rnd.IntN(len(letters))])
		}
		return b.String()
	}
	quote := func(s string) string {
		var b strings.Builder
		b.WriteByte('"')
		for _, r := range s {
			switch {
			case r == '/' && rnd.IntN(2) == 0:
				b.WriteString(`\/`)
			case r < ' ' || r == '"' || r == '\\' || rnd.IntN(8) == 0:
				if r > 0xffff {
					fmt.Fprintf(&b, `\u%04x\u%04X`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
				} else {
					fmt.Fprintf(&b, `\u%04x`, r)
				}
			default:
				b.WriteRune(r)
			}
		}
		b.WriteByte('"')
		return b.String()
	}
	for range 300 {
		shape, model := pick("rest", "vertex", "sdk"), pick("gemini-embedding-001", "gemini-embedding-2")
		taskType, dim := pick("", "RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY", "SEMANTIC_SIMILARITY", "CODE_RETRIEVAL_QUERY"), 1+rnd.IntN(3072)
		n := rnd.IntN(20)
		var in strings.Builder
		fmt.Fprintf(&in, `{"batch":"b","count":%d,"model":%q,"dim":%d,"task_type":%q}`+"\n", n, model, dim, taskType)
		var chunks []record.Chunk
		for i := range n {
			c := record.Chunk{ID: fmt.Sprint(i, text(5)), Text: text(60) + "x", Title: text(3), Context: pick("", text(20))}
			chunks = append(chunks, c)
			members := []string{`"id":` + quote(c.ID), `"text":` + quote(c.Text), `"title":` + quote(c.Title), `"context":` + quote(c.Context), `"more":[1,{"id":null}]`}
			rnd.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
			in.WriteString("{" + strings.Join(members, pick(",", ", ", " ,\t")) + "}" + pick("\n", "\r\n", "\n\n"))
		}
		out, err := render(t, ToJSONL{Shape: shape}, in.String())
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out, "\n")
		if len(lines) != n+2 {
			t.Fatalf("%d lines, want %d", len(lines)-2, n)
		}
		for i, c := range chunks {
			var got any
			if err := json.Unmarshal([]byte(lines[i+1]), &got); err != nil {
				t.Fatal(err)
			}
			if want := again(t, naive(c, shape, model, dim, taskType)); !reflect.DeepEqual(got, want) {
				t.Fatalf("got %v\nwant %v", got, want)
			}
		}
	}
}

// Whatever the input is, each output line is JSON with the key and text of one
// chunk.
func FuzzRender(f *testing.F) {
	for _, seed := range []string{chunk, header001 + chunk, chunk + "\n" + chunk, `{"id":1,"text":"\ud83d\ude00"}`, `{"id":"a","text":"","context":"c"}`,
		`{"id":"a","text":"\ud83d"}`, "{\"id\":\"\xff\",\"text\":\"x\"}", `{"id":"\u0061","title":null,"text":"é\/"}`, `{"batch":"b","count":1}` + "\n" + chunk} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		failed := new(ToJSONL).Run(context.Background(), bytes.NewReader(in), &out)
		in, _ = bytes.CutPrefix(in, []byte("\xef\xbb\xbf"))
		ins := bytes.FieldsFunc(in, func(r rune) bool { return r == '\n' })
		ins = slices.DeleteFunc(ins, func(line []byte) bool { return len(bytes.Trim(line, " \t\r")) == 0 })
		outs := bytes.FieldsFunc(out.Bytes(), func(r rune) bool { return r == '\n' })
		if len(outs) > len(ins) || failed == nil && len(outs) < len(ins) {
			t.Fatalf("%d lines became %d, %v", len(ins), len(outs), failed)
		}
		keys := map[string]bool{}
		for i, line := range outs {
			var got struct {
				Key     string `json:"key"`
				Count   any    `json:"count"`
				Request struct {
					Content struct{ Parts []part }
				}
			}
			// Decoding into an interface keeps the case of names, decoding into a
			// struct does not.
			var chunk map[string]any
			dec := json.NewDecoder(bytes.NewReader(ins[i]))
			dec.UseNumber()
			if err := dec.Decode(&chunk); err != nil {
				t.Fatalf("%q came of %q: %v", line, ins[i], err)
			}
			if err := json.Unmarshal(line, &got); err != nil || !utf8.Valid(line) {
				t.Fatalf("%q came of %q: %v", line, ins[i], err)
			}
			if chunk["id"] == nil {
				if chunk["count"] == nil || got.Count == nil {
					t.Fatalf("%q came of %q", line, ins[i])
				}
				clear(keys)
				continue
			}
			text := chunk["text"]
			if c, _ := chunk["context"].(string); c != "" {
				text = c
			}
			if got.Key != fmt.Sprint(chunk["id"]) || got.Key == "" || len(got.Request.Content.Parts) != 1 {
				t.Fatalf("%q came of %q", line, ins[i])
			}
			sent := got.Request.Content.Parts[0].Text
			if sent != text && !(bytes.Contains(in, []byte("count")) && strings.HasSuffix(sent, text.(string))) {
				t.Fatalf("%q came of %q", line, ins[i])
			}
			if sent == "" {
				t.Fatalf("no text in %q", line)
			}
		}
	})
}
